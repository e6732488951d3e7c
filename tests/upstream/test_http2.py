"""HTTP/2 is spoken where the provider offers it, and only there."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE
from keymux.telemetry.redaction import redact_body
from keymux.upstream.asking import Service, Upstreams
from keymux.upstream.request import UpstreamRequest
from keymux.upstream.transport import Transport
from tests.scenarios.rig import free_port, pause

_SERVER = """
import sys
from granian import Granian
from granian.constants import HTTPModes, Interfaces

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    body = b'{"version": "%s"}' % scope["http_version"].encode()
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})

if __name__ == "__main__":
    port, cert, key = sys.argv[1:]
    from pathlib import Path
    Granian("h2server:app", port=int(port), interface=Interfaces.ASGINL, http=HTTPModes.auto,
            websockets=False, log_enabled=False, ssl_cert=Path(cert), ssl_key=Path(key)).serve()
"""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """A TLS server that speaks both versions: its port and its authority's certificate."""
    folder: Path = tmp_path_factory.mktemp("h2")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "h2server.py").write_text(_SERVER)
    port = free_port()
    command = [sys.executable, "h2server.py", str(port), "cert.pem", "key.pem"]
    with subprocess.Popen(command, cwd=folder) as process:
        yield port, str(folder / "ca.pem")
        process.terminate()


async def _version(port: int, ca_file: str, *, http2: bool) -> str:
    """The HTTP version the server saw, once it is up."""
    transport = Transport(connect_s=5.0)
    upstreams = Upstreams(transport, redact_body, lambda: 0.0)
    service = Service(
        CATALOGUE["sandbox"], f"https://localhost:{port}", ca_file=ca_file, http2=http2
    )
    upstreams.configure({"acme": service}, 10_000)
    ask = upstreams.ask(
        UpstreamRequest(
            provider="acme",
            secret="sk-1",
            way="direct",
            format=WireFormat.OPENAI,
            operation=Operation.GENERATE,
            stream=False,
            headers=(),
            query="",
            body=b"{}",
        )
    )
    try:
        answer = await ask.answer()
        return str(json.loads(await answer.whole())["version"])
    finally:
        await ask.close()
        await transport.close()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            asyncio.run(_connect(port))
        except OSError:
            pause(0.05)
        else:
            return


async def _connect(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


@pytest.mark.parametrize(
    ("http2", "expected"),
    [
        pytest.param(True, "2", id="where it is allowed, the newer version is spoken"),
        pytest.param(False, "1.1", id="a provider can be kept to HTTP/1.1"),
    ],
)
def test_the_version_is_agreed_on(provider: tuple[int, str], *, http2: bool, expected: str) -> None:
    """The provider offers both; the config decides."""
    port, ca_file = provider
    _wait_for(port)

    assert asyncio.run(_version(port, ca_file, http2=http2)) == expected
