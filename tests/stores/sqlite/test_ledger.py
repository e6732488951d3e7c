"""How SQLite finds what is asked of the ledger and its neighbours."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from keymux.stores.port import Batch, Store, UsageQuery
from keymux.stores.sqlite import SqliteStore
from tests.contract.records import ACME, DAY_MS, NOON, cooling, exchange, key, spare, transition

pytestmark = pytest.mark.anyio

QUESTIONS = [
    pytest.param(
        lambda store: store.ledger.usage(UsageQuery(("model",), NOON, NOON + DAY_MS)),
        id="usage of a day",
    ),
    pytest.param(lambda store: store.ledger.find("req_1"), id="one exchange"),
    pytest.param(lambda store: store.ledger.write(Batch((exchange(9),))), id="writing"),
    pytest.param(
        lambda store: store.ledger.write(Batch(transitions=(transition("t", cooling(9)),))),
        id="a transition",
    ),
    pytest.param(lambda store: store.keys.find(ACME, "k1"), id="one key"),
    pytest.param(lambda store: store.keys.add(ACME, [key("k2")], "me"), id="adding a key"),
    pytest.param(lambda store: store.audit.since(5, 10), id="the news of the audit"),
    pytest.param(
        lambda store: store.backups.promote(ACME, "k1", at=NOON, actor="me"), id="a promotion"
    ),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store with a key, a spare and a few exchanges."""
    store = SqliteStore(tmp_path / "keymux.db")
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1")], "me")
    await store.backups.add(ACME, [spare("b1")], "me")
    await store.ledger.write(Batch(tuple(exchange(number) for number in range(5))))
    yield store
    await store.close()


@pytest.mark.parametrize("ask", QUESTIONS)
async def test_no_question_reads_everything(
    store: SqliteStore, tmp_path: Path, ask: Callable[[Store], Awaitable[object]]
) -> None:
    """A year of exchanges must not slow down what is asked all the time."""
    said: list[str] = []
    await store._database.run(lambda connection: connection.set_trace_callback(said.append))
    await ask(store)
    await store._database.run(lambda connection: connection.set_trace_callback(None))
    asked = [text for text in said if text.startswith(("SELECT", "UPDATE", "INSERT"))]
    with closing(sqlite3.connect(tmp_path / "keymux.db")) as connection:
        connection.create_function("resealed", 4, lambda *_: None)
        plans = [
            str(row[3])
            for text in asked
            for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")
        ]
    scans = {plan for plan in plans if plan.startswith("SCAN")}

    assert asked
    assert scans <= {"SCAN provider_states"}  # a row for each provider
