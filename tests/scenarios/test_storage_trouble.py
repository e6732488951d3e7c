"""The store is locked, full or gone: no client notices, and in the end all is booked."""

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, chat, get, post

KEY = "sk-sandbox-ok-1"
WAYS = [(path, stream) for path in (OPENAI_PATH, ANTHROPIC_PATH) for stream in (False, True)]
SMALLER_THAN_A_PAGE = 16_384
NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, sandbox: SandboxThread) -> Iterator[GatewayProcess]:
    """A gateway with one key, and a prefix as alias so that names may be of any length."""
    config = config_of({"openhands": sandbox.url("openhands")})
    config["models"][0]["aliases"].append("very-*")
    with GatewayProcess(tmp_path, config, {"openhands": Keys([KEY])}) as running:
        yield running


@contextmanager
def _locked(gateway: GatewayProcess) -> Iterator[None]:
    """Somebody else writes into the database, and does not end."""
    with closing(sqlite3.connect(gateway.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _full(gateway: GatewayProcess) -> Iterator[None]:
    """No file takes another page, as on a full disk; the log is short enough to grow."""
    for worker in gateway.workers():
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (SMALLER_THAN_A_PAGE, NO_LIMIT))
    yield
    for worker in gateway.workers() if gateway.process else ():
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))


@contextmanager
def _moved_away(gateway: GatewayProcess) -> Iterator[None]:
    """The database is not where it was, and comes back."""
    files = sorted(gateway.folder.glob("keymux.db*"))
    for path in files:
        path.rename(path.with_name(f"away-{path.name}"))
    yield
    for path in files:
        path.with_name(f"away-{path.name}").rename(path)


Trouble = Callable[[GatewayProcess], AbstractContextManager[None]]
TROUBLES = pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(_locked, id="locked"),
        pytest.param(_full, id="full"),
        pytest.param(_moved_away, id="moved away"),
    ],
)


def _ask_in_every_way(gateway: GatewayProcess, times: int = 3) -> list[Response]:
    return [
        post(gateway.port, path, chat(stream=stream)) for path, stream in WAYS for _ in range(times)
    ]


def _ids(responses: list[Response]) -> list[str]:
    return [response.headers["x-keymux-request-id"] for response in responses]


def _outbox(gateway: GatewayProcess) -> int:
    """Entries that the store does not have."""
    page = get(gateway.port, "/metrics").body.decode()
    return int(float(page.split("\nkeymux_usage_outbox_depth ")[1].split("\n")[0]))


def _wait_until_settled(gateway: GatewayProcess, count: int) -> None:
    """A client may have its answer a moment before the exchange is over."""
    for _ in range(100):
        if _outbox(gateway) == count:
            return
        pause(0.02)
    raise AssertionError("not settled")


def _check_the_books(gateway: GatewayProcess, ids: list[str], seconds: float = 10.0) -> None:
    """Each of these exchanges has one row, with its figures, and counters that agree with it."""
    rows = gateway.wait_for_rows(len(ids), seconds)
    key = gateway.keys("openhands")[KEY]

    assert sorted(row.id for row in rows) == sorted(ids)
    assert {row.outcome for row in rows} == {Outcome.OK}
    assert all(row.usage.total and row.cost_micros for row in rows)
    assert key.requests_count == len(rows)
    assert key.tokens_used == sum(row.usage.total for row in rows)


@TROUBLES
def test_requests_go_on(gateway: GatewayProcess, trouble: Trouble) -> None:
    """Clients are served as ever; when the trouble is over, every exchange is booked once."""
    before = _ask_in_every_way(gateway, 1)
    gateway.wait_for_rows(len(before))
    with trouble(gateway):
        during = _ask_in_every_way(gateway)
        pause(0.6)
        waiting = _outbox(gateway)
        ready = get(gateway.port, "/readyz").status
    after = _ask_in_every_way(gateway, 1)

    assert {response.status for response in (*before, *during, *after)} == {200}
    assert waiting == len(during)
    assert ready == 200
    _check_the_books(gateway, _ids([*before, *during, *after]))


@TROUBLES
def test_a_kill_in_the_midst_of_it_loses_nothing(gateway: GatewayProcess, trouble: Trouble) -> None:
    """The journal has what the store could not take; the next start books it."""
    before = _ask_in_every_way(gateway, 1)
    gateway.wait_for_rows(len(before))
    with trouble(gateway):
        during = _ask_in_every_way(gateway)
        _wait_until_settled(gateway, len(during))
        gateway.kill()
    gateway.start()

    _check_the_books(gateway, _ids([*before, *during]))


@TROUBLES
def test_stopping_in_the_midst_of_it_loses_nothing(
    gateway: GatewayProcess, trouble: Trouble
) -> None:
    """What cannot be written down at the end stays in the journal for the next start."""
    with trouble(gateway):
        during = _ask_in_every_way(gateway, 1)
        code = gateway.stop()
    gateway.start()

    assert code == 0
    _check_the_books(gateway, _ids(during))


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        pytest.param(_full, "", id="full"),
        pytest.param(_moved_away, "put it back", id="moved away"),
    ],
)
def test_operators_are_told(gateway: GatewayProcess, trouble: Trouble, words: str) -> None:
    """The log says once that the store takes nothing and why, and once that it does again."""
    with trouble(gateway):
        during = _ask_in_every_way(gateway, 1)
        pause(1.2)
    _check_the_books(gateway, _ids(during))
    pause(0.3)
    told = [line["problem"] for line in gateway.log() if line["event"] == "ledger"]

    assert len(told) == 2
    assert "does not take entries" in told[0]
    assert words in told[0]
    assert told[1] == "the store takes entries again"
