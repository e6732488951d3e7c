"""The programs that are compared and the upstream behind them, each while a context is open."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any

import nginx
import trustme
from msgspec import Struct
from payload import UPSTREAM_MODEL
from processes import Cores, Program, answers, free_port, is_ready, running, tool
from tools import LOAD

from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyType
from keymux.core.records import ClientKeyRecord, KeyRecord
from keymux.core.secrets import hash_of
from keymux.stores.mongo import MongoStore
from keymux.stores.port import Store
from keymux.stores.sqlite import SqliteStore

CLIENT_KEY = "km-" + "c" * 40
PYTHON = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
SECANTUS = PYTHON.with_name("secantusd-py")
KEYS = 10
PRICE = {"input": 3.0, "output": 15.0, "cache_read": 0.3}


class Yard(Struct, frozen=True):
    """Where a run takes place.

    Attributes:
        folder: for everything it writes; removed afterwards.
        cores: which core does what.
        certificate: PEM file with key and certificate of the TLS upstream.
        ca: PEM file with the certificate that signed it.
    """

    folder: Path
    cores: Cores
    certificate: Path
    ca: Path


class Upstream(Struct, frozen=True):
    """The mock upstream: the same answers on two ports."""

    plain: int
    tls: int


class Subject(Struct, frozen=True):
    """What a load is sent to.

    Attributes:
        name: for the table.
        program: whose CPU is read.
        port: where it listens.
        body: file with the request.
        key: the client key to show.
    """

    name: str
    program: Program
    port: int
    body: Path
    key: str = CLIENT_KEY


class Floor(Struct, frozen=True):
    """nginx with a port for each kind of load."""

    program: Program
    plain: int
    stream: int
    tls: int


class Gateway(Struct, frozen=True):
    """A running keymux.

    Attributes:
        ready_s: from the start of its first process until it took requests.
    """

    program: Program
    port: int
    database: Path
    ready_s: float


def yard_in(folder: Path, cores: Cores) -> Yard:
    """A yard with fresh certificates."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    certificate, ca = folder / "upstream.pem", folder / "ca.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(ca))
    return Yard(folder, cores, certificate, ca)


@contextmanager
def upstream(yard: Yard, name: str, *, events: int, gap_ms: int) -> Iterator[Upstream]:
    """The mock upstream on the load's core, without TLS and behind nginx with TLS."""
    ports = Upstream(plain=free_port(), tls=free_port())
    command = [str(LOAD), "upstream", str(ports.plain), str(events), str(gap_ms)]
    config = nginx.tls_side(
        str(yard.folder),
        f"{name}-tls",
        upstream=ports.plain,
        port=ports.tls,
        certificate=str(yard.certificate),
    )
    core, folder = yard.cores.load, yard.folder
    with (
        running(name, command, core=core, folder=folder) as mock,
        _nginx(yard, f"{name}-tls", config, core=core) as tls,
    ):
        mock.wait_for(lambda: answers(ports.plain))
        tls.wait_for(lambda: answers(ports.tls))
        yield ports


@contextmanager
def floor(yard: Yard, behind: Upstream) -> Iterator[Floor]:
    """A plain reverse proxy: the least that can be spent on passing something on."""
    ports = {name: free_port() for name in ("plain_port", "stream_port", "tls_port")}
    whole = {**ports, "upstream": behind.plain, "tls": behind.tls}
    config = nginx.floor(str(yard.folder), whole, ca=str(yard.ca))
    with _nginx(yard, "floor", config, core=yard.cores.tested) as program:
        program.wait_for(lambda: answers(ports["tls_port"]))
        yield Floor(program, ports["plain_port"], ports["stream_port"], ports["tls_port"])


@contextmanager
def _nginx(yard: Yard, name: str, config: str, *, core: int) -> Iterator[Program]:
    path = yard.folder / f"{name}.conf"
    path.write_text(config)
    command = [tool("nginx"), "-c", str(path), "-e", "stderr"]
    with running(name, command, core=core, folder=yard.folder) as program:
        yield program


class Target(Struct, frozen=True):
    """One provider of the gateway, with a model of the same name.

    Attributes:
        port: of the upstream.
        tls: whether TLS is spoken to it,
        http2: and HTTP/2 within.
    """

    port: int
    tls: bool = False
    http2: bool = False


class Load(Struct, frozen=True):
    """What is in a gateway's store.

    Attributes:
        keys: of each provider.
        proxies: ports of local SOCKS5 proxies, to which the keys are bound in turn.
    """

    keys: int = KEYS
    proxies: Sequence[int] = ()


_USUAL = Load()


@contextmanager
def gateway(
    yard: Yard, name: str, targets: Mapping[str, Target], *, load: Load = _USUAL, store: str = ""
) -> Iterator[Gateway]:
    """The shipped program with its default settings: ledger in SQLite, log in a file.

    Args:
        yard: where it is.
        name: of its folder.
        targets: its providers.
        load: what is in the store.
        store: the address of another store.
    """
    folder = yard.folder / name
    folder.mkdir()
    port, database = free_port(), folder / "keymux.db"
    config, address = folder / "config.json", store or f"sqlite:///{database}"
    config.write_text(json.dumps(_config(yard, targets) | {"port": port, "store": address}))
    asyncio.run(_seed(MongoStore(store, print) if store else SqliteStore(database), targets, load))
    command = [str(PYTHON), "-m", "keymux", "serve", "--config", str(config)]
    begin = monotonic()
    with running("keymux", command, core=yard.cores.tested, folder=folder) as program:
        program.wait_for(lambda: is_ready(port, "/readyz"), every=0.005)
        yield Gateway(program, port, database, monotonic() - begin)


def _config(yard: Yard, targets: Mapping[str, Target]) -> dict[str, Any]:
    providers = {
        name: {
            "kind": "openai",
            "base_url": f"{'https' if target.tls else 'http'}://127.0.0.1:{target.port}",
            "http2": target.http2,
            "ca_file": str(yard.ca) if target.tls else None,
        }
        for name, target in targets.items()
    }
    models = [
        {
            "id": f"claude-{name}-20250929",
            "aliases": [name],
            "route": [{"provider": name, "model": UPSTREAM_MODEL}],
            "price": PRICE,
        }
        for name in targets
    ]
    return {"providers": providers, "models": models}


@contextmanager
def mongodb(yard: Yard) -> Iterator[str]:
    """The address of a database on a MongoDB-protocol server, on the load's core."""
    port, folder = free_port(), yard.folder / "mongodb"
    folder.mkdir()
    command = [str(SECANTUS), f"--port={port}", f"--storage-path={folder}", "--sync-on-commit"]
    with running("mongodb", command, core=yard.cores.load, folder=folder) as program:
        program.wait_for(lambda: answers(port))
        yield f"mongodb://127.0.0.1:{port}/bench"


@contextmanager
def proxy(yard: Yard) -> Iterator[int]:
    """The port of a SOCKS5 proxy on the load's core."""
    port = free_port()
    command = [tool("microsocks"), "-i", "127.0.0.1", "-p", str(port)]
    with running("microsocks", command, core=yard.cores.load, folder=yard.folder) as program:
        program.wait_for(lambda: answers(port))
        yield port


async def _seed(store: Store, targets: Mapping[str, Target], load: Load) -> None:
    await store.prepare(list(targets))
    proxies = [
        ProxyRecord(
            f"proxy_{port}", f"proxy-{port}", ProxyAddress(ProxyType.SOCKS5, "127.0.0.1", port)
        )
        for port in load.proxies
    ]
    await store.proxies.add(proxies, "bench")
    for provider in targets:
        secrets = [f"sk-{provider}-{number:06}" for number in range(load.keys)]
        records = [
            KeyRecord(id=f"key_{hash_of(secret)[:12]}", secret=secret, created_at=1000 + number)
            for number, secret in enumerate(secrets)
        ]
        await store.keys.add(provider, records, "bench")
        pairs = zip(records, cycle(proxies)) if proxies else ()
        bindings = [BindingRecord(f"binding_{key.id}", found.id, key.id) for key, found in pairs]
        await store.bindings.add(provider, bindings, "bench")
    client = ClientKeyRecord(id="client_1", key_hash=hash_of(CLIENT_KEY), shown="km-...cccc")
    await store.clients.add(client, "bench")
    await store.close()
