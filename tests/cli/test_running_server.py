"""Commands while the gateway runs: what they change holds within a second."""

import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cli.program import CONFIG, KEYMUX, Program, id_of, key
from tests.cli.upstream import Reply, upstream

ONE = "sk-one-0123456789"
WITHIN_S = 1.5  # the server looks twice a second; the rest is for a busy machine
PATIENCE_S = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """A gateway that runs, and what it says."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, secret: str = "") -> tuple[int, str]:
        """Status and body of an answer; 0 when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"x-api-key": secret} if secret else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()


def seconds_until(holds: Callable[[], bool]) -> float:
    """How long it takes until something holds."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < PATIENCE_S, "it never held"
    return time.monotonic() - start


@pytest.fixture
def gateway(keymux: Program) -> Iterator[Gateway]:
    """The gateway of the program's folder, ready."""
    port = free_port()
    with upstream({ONE: Reply()}) as running:
        providers = {"alpha": {"kind": "openhands", "base_url": running.url}}
        models = [{"id": "m", "route": [{"provider": "alpha", "model": "m"}]}]
        keymux.configure(
            {"port": port, "store": CONFIG["store"], "providers": providers, "models": models}
        )
        keymux.add_keys(key(ONE))
        process = subprocess.Popen(
            [KEYMUX, "serve"],
            cwd=keymux.folder,
            env=keymux.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            found = Gateway(port)
            seconds_until(lambda: found.get("/readyz")[0] == 200)
            yield found
        finally:
            process.terminate()
            process.wait(20)


def is_known(gateway: Gateway, secret: str) -> bool:
    """Whether the gateway takes a client key."""
    return gateway.get("/v1/models", secret)[0] == 200


def test_a_client_key_works_and_stops_working(keymux: Program, gateway: Gateway) -> None:
    """A new client key is accepted and a revoked one refused within a second."""
    secret = keymux.good("clients", "add", "--label", "new").out.strip()
    accepted_after = seconds_until(lambda: is_known(gateway, secret))

    keymux.good("clients", "revoke", secret[-4:])
    refused_after = seconds_until(lambda: not is_known(gateway, secret))

    assert max(accepted_after, refused_after) < WITHIN_S


def test_a_disabled_key_leaves_the_pool(keymux: Program, gateway: Gateway) -> None:
    """The gateway counts it as disabled within a second, and as healthy once it is enabled."""

    def counts(status: str) -> bool:
        line = f'keymux_keys{{provider="alpha",state="{status}"}} 1.0'
        return line in gateway.get("/metrics")[1].replace(", ", ",")

    seconds_until(lambda: counts("healthy"))
    keymux.good("keys", "disable", "alpha", id_of(ONE))
    disabled_after = seconds_until(lambda: counts("disabled"))

    keymux.good("keys", "enable", "alpha", id_of(ONE))
    enabled_after = seconds_until(lambda: counts("healthy"))

    assert max(disabled_after, enabled_after) < WITHIN_S


def test_reading_does_not_disturb_the_server(keymux: Program, gateway: Gateway) -> None:
    """Every command that only looks works beside a running gateway."""
    done = [
        keymux.run(*command, "--json").code
        for command in (
            ("keys", "list", "alpha"),
            ("keys", "test", "alpha"),
            ("providers", "list"),
            ("clients", "list"),
            ("usage",),
            ("explain", "m"),
            ("audit",),
            ("check",),
            ("init-db",),
        )
    ]

    assert done == [0] * 9
    assert gateway.get("/readyz")[0] == 200
