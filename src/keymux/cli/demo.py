"""What a config with sandbox providers brings along: the sandbox itself, and keys that it takes."""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.ids import record_id
from keymux.sandbox.apart import SandboxChild
from keymux.settings import Settings
from keymux.stores.port import Store

KIND = "sandbox"
_KEYS = ("sk-sandbox-ok-1", "sk-sandbox-ok-2", "sk-sandbox-ok-3")
_BACKUP = "sk-sandbox-ok-spare"
_PATIENCE_S = 2.0


class NoSandbox(Exception):  # noqa: N818 -- names the state
    """The address of a sandbox provider cannot be served; the message says why."""


@contextmanager
def sandbox_for(settings: Settings) -> Iterator[None]:
    """Run a sandbox for as long as the context lasts where the config names one on this machine.

    One that runs already is used as it is.

    Raises:
        NoSandbox: something else has the port.
    """
    with ExitStack() as running:
        for name, host, port in _places(settings):
            where = f"$.providers.{name}.base_url"
            if _is_there(where, host, port):
                continue
            try:
                running.enter_context(SandboxChild(host, port))
            except OSError as error:
                raise NoSandbox(f"{where}: no sandbox could be started there: {error}") from None
        yield


def _places(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Where sandboxes are expected on this machine, each place once."""
    known: set[tuple[str, int]] = set()
    for name, provider in settings.providers.items():
        address = urlsplit(provider.url)
        place = (address.hostname or "", address.port or 80)
        if provider.kind == KIND and _is_local(place[0]) and place not in known:
            known.add(place)
            yield name, *place


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_there(where: str, host: str, port: int) -> bool:
    """Whether a sandbox answers; a port that nobody has is none."""
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/_sandbox/status")
        answer = connection.getresponse()
        if b'"changes"' in answer.read(1000):
            return True
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    raise NoSandbox(f"{where}: something that is no sandbox listens on {host}:{port}")


async def give_keys(settings: Settings, store: Store, actor: str) -> None:
    """Let sandbox providers without any keys have a few, and a spare."""
    for name, provider in settings.providers.items():
        if provider.kind != KIND or await store.keys.load(name):
            continue
        keys = [KeyRecord(id=record_id("key"), secret=secret) for secret in _KEYS]
        await store.keys.add(name, keys, actor)
        spare = BackupKeyRecord(id=record_id("backup"), secret=_BACKUP)
        await store.backups.add(name, [spare], actor)
