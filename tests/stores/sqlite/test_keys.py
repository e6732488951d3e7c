"""What operators find in the table of upstream keys when they look into it themselves."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keymux.core.health import Status
from keymux.core.records import KeyState
from keymux.stores.port import Batch
from keymux.stores.sqlite import SqliteStore
from tests.contract.records import ACME, NOON, cooling, key, shaded, transition

pytestmark = pytest.mark.anyio


async def _stored(path: Path, *told: tuple[KeyState, str]) -> tuple[object, ...]:
    store = SqliteStore(path)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1")], "me")
    noted = tuple(transition(f"t{n}", state, model) for n, (state, model) in enumerate(told))
    await store.ledger.write(Batch(transitions=noted))
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT status, cooldownUntil, statusReason FROM acme_keys")
        return tuple(found.fetchone())


SEEN = [
    pytest.param([], ("healthy", None, ""), id="a key that is well"),
    pytest.param(
        [(cooling(60), "")], ("rate_limited", NOON + 60_000, "for 60 s"), id="a key that cools"
    ),
    pytest.param(
        [(shaded("sonnet", 60), "sonnet"), (shaded("haiku", 90), "haiku")],
        ("rate_limited", NOON + 90_000, "too fast"),
        id="a key that cools for two models shows the longer cooldown",
    ),
    pytest.param(
        [(shaded("sonnet", 900), "sonnet"), (cooling(60, status=Status.ERROR), "")],
        ("error", NOON + 60_000, "for 60 s"),
        id="its own cooldown counts more than a model's",
    ),
]


@pytest.mark.parametrize(("told", "expected"), SEEN)
async def test_what_operators_see(
    tmp_path: Path, told: list[tuple[KeyState, str]], expected: tuple[object, ...]
) -> None:
    """Status, deadline and reason of what keeps a key away."""
    assert await _stored(tmp_path / "keymux.db", *told) == expected


async def test_cooldowns_that_were_spoilt_by_hand_are_forgotten(tmp_path: Path) -> None:
    """One row that nobody can read does not keep the gateway from starting."""
    path = tmp_path / "keymux.db"
    await _stored(path, (cooling(60), ""))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE acme_keys SET modelCooldowns = '{oops'")
    store = SqliteStore(path)
    record = await store.keys.find(ACME, "k1")
    await store.close()

    assert record is not None
    assert record.state == cooling(60)
