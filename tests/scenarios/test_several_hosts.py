"""Two hosts with two workers each on one database: what one finds out, all go by."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keymux.core.health import Status
from keymux.core.records import ExchangeRow
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.behaviours import Rejected, Revoked, Slow, Spent, Throttled
from keymux.sandbox.record import Seen
from tests.scenarios.hosts import STORES, Host, Load, database, hosts, markers
from tests.scenarios.rig import IS_LONG, Keys, config_of, key_id

SEEN_WITHIN_S = 1.0
TOLD_S = 3.0
ROUNDS = 100 if IS_LONG else 40

STEADY = [f"sk-steady-{n}" for n in range(10)]
ONCE, LONGER, REVOKED, REJECTED, SPENT = (
    [f"sk-{what}-{n}" for n in range(2)]
    for what in ("throttled-once", "throttled-longer", "revoked", "rejected", "spent")
)
FRAGILE = [*ONCE, *LONGER, *REVOKED, *REJECTED, *SPENT]
BACKUPS = [f"sk-backup-{n}" for n in range(8)]
DYING = [f"sk-dying-{n}" for n in range(ROUNDS)]
SPARES = [f"sk-spare-{n}" for n in range(ROUNDS)]

QUICK, UNHURRIED = Slow(0.05, 0.0), Slow(0.4, 0.0)
TROUBLES = {
    # whoever had not heard of the first refusal would be served
    **dict.fromkeys(ONCE, (Throttled(TOLD_S), UNHURRIED)),
    **dict.fromkeys(REVOKED, (Revoked(), QUICK)),
    **dict.fromkeys(SPENT, (Spent(), QUICK)),
    **dict.fromkeys(LONGER, (Throttled(TOLD_S),)),
    **dict.fromkeys(REJECTED, (Rejected(),)),
}


@pytest.fixture
def sandbox() -> Iterator[SandboxChild]:
    """The upstream, in a process of its own."""
    with SandboxChild() as running:
        yield running


@pytest.fixture(params=STORES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database for all hosts."""
    with database(request.param, tmp_path) as found:
        yield found


def _config(sandbox: SandboxChild) -> dict[str, Any]:
    retry = {"budget_percent": 100, "budget_floor": 10_000, "attempts": 32}
    return config_of({"openhands": sandbox.url("openhands")}, workers=2, retry=retry)


# -- faults under load -----------------------------------------------------------------------------
async def _trouble(sandbox: SandboxChild, load: Load) -> None:
    """Half of the keys get into trouble under load; those that were throttled get over it."""
    over = asyncio.Event()
    running = asyncio.get_running_loop().create_task(load.run(over.is_set))
    await asyncio.sleep(0.5)
    for key, script in TROUBLES.items():
        await asyncio.to_thread(sandbox.behave, key, *script)
    await asyncio.sleep(1.8 * TOLD_S)
    for key in LONGER:
        await asyncio.to_thread(sandbox.behave, key, UNHURRIED)
    await asyncio.sleep(2.2 * TOLD_S)
    over.set()
    await running


def _check_cooling(key: str, seen: list[Seen]) -> int:
    """Nothing while a key cools, one at a time when it is due; gives the number of probes."""
    sends = sorted(seen, key=lambda one: one.at)
    told_at = [one.finished_at or 0.0 for one in sends if one.status == 429]
    known = told_at[0] + SEEN_WITHIN_S
    cool_from = max(moment for moment in told_at if moment <= known)
    last_end, probes, is_well = 0.0, 0, False
    for one in (one for one in sends if one.at > known):
        assert one.at >= last_end, f"{key} was probed by two at once"
        if is_well:
            break
        assert one.at >= cool_from + TOLD_S, f"{key} was used while it cooled"
        last_end = cool_from = one.finished_at or 0.0
        probes, is_well = probes + 1, one.status == 200
    return probes


def _check_dead(key: str, seen: list[Seen], refusals: int) -> None:
    """Nothing once the key is known to be dead."""
    refused = [one for one in seen if one.status not in {None, 200}]
    known = sorted(one.finished_at or 0.0 for one in refused)[refusals - 1] + SEEN_WITHIN_S
    late = [one.at - known for one in seen if one.at > known]

    assert not late, f"{key} was used after it was dead"


def _check_ledger(rows: list[ExchangeRow], load: Load, seen: list[Seen]) -> None:
    """The ledger is what the upstream saw: each attempt, in order, with the key it showed."""
    sent: dict[str, list[str]] = {}
    for one in sorted(seen, key=lambda one: one.at):
        (marker,) = markers(one.body)
        sent.setdefault(marker, []).append(key_id(one.key))
    by_id = {row.id: row for row in rows}

    assert len(rows) == len(by_id) == len(load.answered)
    for answer in load.answered:
        row = by_id[answer.request_id]
        assert [attempt.key for attempt in row.attempts] == sent.pop(answer.marker, [])
    assert not sent


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(90)
def test_what_one_process_finds_out_all_go_by(
    sandbox: SandboxChild, address: str, tmp_path: Path
) -> None:
    """Twenty keys, half of them in trouble: single probes, one spare for each dead key."""
    for key in (*STEADY, *FRAGILE, *BACKUPS):
        sandbox.behave(key, QUICK)
    keys = {"openhands": Keys([*STEADY, *FRAGILE], BACKUPS)}
    with hosts(tmp_path, 2, _config(sandbox), address, keys) as running:
        load = Load([host.port for host in running], clients=8, gap_s=0.12)
        asyncio.run(_trouble(sandbox, load))
        host = running[0]
    seen, stored, backups = sandbox.seen, host.stored_keys(), host.stored_backups()
    by_key = {key: [one for one in seen if one.key == key] for key in FRAGILE}
    dead = {key_id(key) for key in (*REVOKED, *REJECTED, *SPENT)}
    used_for = [backup.used_for for backup in backups if backup.is_used]

    assert {answer.status for answer in load.answered} == {200}
    assert all(_check_cooling(key, by_key[key]) >= 1 for key in ONCE)
    assert all(_check_cooling(key, by_key[key]) >= 2 for key in LONGER)
    for key in (*REVOKED, *SPENT):
        _check_dead(key, by_key[key], 1)
    for key in REJECTED:
        _check_dead(key, by_key[key], 2)
    assert sorted(used_for) == sorted(dead)
    assert {key for key, record in stored.items() if record.replaced_by} == dead
    _check_ledger(host.rows(), load, seen)


# -- one spare for each ----------------------------------------------------------------------------
async def _until_all_died(host: Host, load: Load) -> None:
    """Load until there is no spare left, or for a minute."""
    over = asyncio.Event()
    running = asyncio.get_running_loop().create_task(load.run(over.is_set))
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        await asyncio.sleep(1.0)
        if all(one.is_used for one in await asyncio.to_thread(host.stored_backups)):
            break
    over.set()
    await running


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(150)
def test_each_dead_key_gets_one_spare(sandbox: SandboxChild, address: str, tmp_path: Path) -> None:
    """Many keys die in four processes at once; each is replaced by one spare, once."""
    for key in DYING:
        sandbox.behave(key, Spent())
    for key in SPARES:
        sandbox.behave(key, QUICK)
    keys = {"openhands": Keys(DYING, SPARES)}
    with hosts(tmp_path, 2, _config(sandbox), address, keys) as running:
        host = running[0]
        asyncio.run(_until_all_died(host, Load([one.port for one in running], 4, gap_s=0.05)))
    backups = host.stored_backups()
    audit = host.ask_store(lambda store: store.audit.since(0, 100_000))
    promoted = [row.before for row in audit if row.action == "backup.promote"]
    dead = sorted(key_id(key) for key in DYING)

    assert sorted(backup.used_for for backup in backups) == dead
    assert sorted(promoted) == dead
    assert {record.state.status for record in host.stored_keys().values()} == {
        Status.EXHAUSTED,
        Status.HEALTHY,
    }
    assert len(host.stored_keys()) == 2 * ROUNDS
