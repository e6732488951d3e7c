"""Conditions as they are stored, and what becomes of them after a restart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keymux.core.faults import (
    BadGateway,
    KeyRejected,
    KeyRevoked,
    KeySpent,
    KeyThrottled,
    ModelNotPermitted,
    PolicyBlocked,
    ServerFailed,
    UpstreamFault,
)
from keymux.core.health import Condition, Status
from keymux.core.records import KeyRecord, KeyState, ProviderState, Shade
from keymux.pools.persistence import (
    Clocks,
    key_state,
    merge_key,
    merge_provider,
    provider_state,
    put_key,
    put_provider,
)
from keymux.pools.pool import Lease, Pool
from tests.pools.rig import MODEL, OTHER_MODEL, Clock, World, step

WALL = 1_790_000_000_000
HOUR = 3600.0


class Process:
    """A process with clocks of its own: the monotonic one starts anywhere."""

    def __init__(self, *, uptime: float = 5000.0, wall_ms: int = WALL) -> None:
        self.clock = Clock(uptime)
        self._wall_minus_monotonic = wall_ms - uptime * 1000
        self.clocks = Clocks(self.clock, self.wall_ms)
        self.world = World(clock=self.clock)

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return round(self.clock.now * 1000 + self._wall_minus_monotonic)

    def adjust_wall(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self._wall_minus_monotonic += seconds * 1000

    @property
    def pool(self) -> Pool:
        """Its pool."""
        return self.world.pool

    def add(self, *keys: str, group: str = "") -> "Process":
        """Add keys."""
        for key in keys:
            self.pool.add(key, f"secret-{key}", group=group)
        return self

    def record(self, key: str = "a") -> KeyRecord:
        """How a key is stored now."""
        found = self.pool.keys[key]
        name = found.group.name
        return KeyRecord(
            id=key,
            secret=found.secret,
            group="" if name.startswith("key:") else name,
            state=key_state(found, self.clocks),
            updated_at=self.wall_ms(),
        )

    def restarted(self, *, after_s: float = 0.0, wall_jump_s: float = 0.0) -> "Process":
        """A new process on the same store, with another monotonic clock."""
        successor = Process(
            uptime=77.0, wall_ms=self.wall_ms() + round((after_s + wall_jump_s) * 1000)
        )
        for key in self.pool.keys:
            put_key(successor.pool, self.record(key), successor.clocks)
        put_provider(successor.pool, provider_state(self.pool, self.clocks), successor.clocks)
        return successor

    def ready_after(self, model: str = MODEL) -> float:
        """Seconds until a request for a model can be served."""
        start = self.clock()
        while self.world.take(model) is None:
            outlook = self.pool.outlook(step(model), self.clock())
            assert outlook.until is not None, "never"
            self.clock.now = outlook.until
        return round(self.clock() - start, 3)


# -- restart -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(KeyThrottled(told=100.0), 100.0, id="a rate limit"),
        pytest.param(KeySpent(told=7200.0), 7200.0, id="a spent key"),
        pytest.param(ModelNotPermitted(), 6 * HOUR, id="a model that is off"),
        pytest.param(BadGateway(told=30.0), 30.0, id="a provider that is down"),
    ],
)
def test_a_cooldown_survives_a_restart(fault: UpstreamFault, seconds: float) -> None:
    """T08: what was left of it is left afterwards, whatever the new process counts from."""
    process = Process().add("a")
    process.world.hit(fault)
    process.clock.pass_s(seconds / 4)
    successor = process.restarted(after_s=seconds / 4)

    assert successor.ready_after() == pytest.approx(seconds / 2, abs=0.002)


@pytest.mark.parametrize(
    ("jump_s", "longest", "shortest"),
    [
        pytest.param(-3600.0, 100.0, 100.0, id="an hour back: no longer than it ever was"),
        pytest.param(3600.0, 0.0, 0.0, id="an hour ahead: due, so that one probe finds out"),
        pytest.param(-1e9, 100.0, 100.0, id="to another decade"),
    ],
)
def test_a_wall_clock_that_jumps_does_little_harm(
    jump_s: float, longest: float, shortest: float
) -> None:
    """T07: a key never cools for an hour more, and never comes back without a probe."""
    process = Process().add("a")
    process.world.hit(KeyThrottled(told=100.0))
    successor = process.restarted(wall_jump_s=jump_s)
    wait = successor.ready_after()

    assert shortest <= wait <= longest
    assert successor.world.take() is None, "one probe, not a herd"


def test_a_running_process_does_not_look_at_the_wall() -> None:
    """T07: cooldowns of a running process count by the clock that never jumps."""
    process = Process().add("a")
    process.world.hit(KeyThrottled(told=100.0))
    for jump in (-3600.0, 7200.0):
        process.adjust_wall(jump)

    assert process.ready_after() == 100.0


def test_all_models_of_a_key_survive_a_restart() -> None:
    """Cooldowns of single models are stored with their key."""
    process = Process().add("a")
    process.world.hit(KeyThrottled(told=50.0))
    process.world.hit(ModelNotPermitted(), model=OTHER_MODEL)
    successor = process.restarted()

    assert successor.ready_after() == 50.0
    assert successor.ready_after(OTHER_MODEL) == pytest.approx(6 * HOUR - 50.0)


def test_a_groups_cooldown_holds_for_all_its_keys_after_a_restart() -> None:
    """It is stored with the key that was refused, and read for the group."""
    process = Process().add("a", "b", group="team")
    process.world.hit(KeyThrottled(told=50.0), key="a")
    successor = process.restarted()

    assert successor.world.ready() == set()
    assert successor.ready_after() == 50.0


def test_a_group_that_gets_well_after_a_restart_is_told_for_its_carrier() -> None:
    """The key whose stored state tells of the cooldown is known to the new process as well."""
    process = Process().add("a", "b", group="team")
    process.world.hit(KeyThrottled(told=50.0), key="a")
    successor = process.restarted(after_s=50.0)
    put_key(successor.pool, process.record("a"), successor.clocks)
    successor.world.serve(key="b")

    assert "a" in {key.id for change in successor.world.changes for key in change.keys}


def test_what_waits_for_an_operator_still_does() -> None:
    """A quarantined key, and a provider that refuses our region, stay away."""
    process = Process().add("a", "b")
    process.world.hit(KeyRevoked(), key="a")
    process.world.hit(PolicyBlocked(), key="b")
    successor = process.restarted(after_s=1e6)

    assert successor.pool.keys["a"].gate.condition.status is Status.QUARANTINED
    assert successor.world.take() is None
    assert provider_state(successor.pool, successor.clocks).status is Status.QUARANTINED


def test_the_step_of_a_backoff_survives_a_restart() -> None:
    """The third wave is the third wave, although the process is new."""
    process = Process().add("a")
    for _ in range(2):
        process.world.hit(KeyThrottled())
        process.clock.pass_s(120.0)
    process.world.hit(KeyThrottled())
    shade = process.record().state.shades[MODEL]
    successor = process.restarted(after_s=120.0)

    assert shade.step == 3
    assert successor.pool.keys["a"].group.models[MODEL].condition.step == 3


def test_suspicion_survives_a_restart_for_ten_minutes() -> None:
    """U06: the second refusal may come after a restart."""
    process = Process().add("a")
    process.world.hit(KeyRejected())
    process.clock.pass_s(300.0)
    successor = process.restarted(after_s=200.0)
    successor.world.hit(KeyRejected())

    assert successor.pool.keys["a"].gate.condition.status is Status.QUARANTINED


@pytest.mark.parametrize("after_s", [601.0, 1e7])
def test_an_old_suspicion_is_not_renewed_by_a_restart(after_s: float) -> None:
    """One refusal a month ago and one today are two single refusals."""
    process = Process().add("a")
    process.world.hit(KeyRejected())
    successor = process.restarted(after_s=after_s)
    successor.world.hit(KeyRejected())

    assert successor.pool.keys["a"].gate.condition.status is Status.HEALTHY


def test_suspicion_survives_a_young_monotonic_clock() -> None:
    """A machine that was just started counts from nearly nothing."""
    process = Process().add("a")
    process.world.hit(KeyRejected())
    successor = Process(uptime=1.0, wall_ms=process.wall_ms() + 500_000)
    put_key(successor.pool, process.record(), successor.clocks)
    successor.world.hit(KeyRejected())

    assert successor.pool.keys["a"].gate.condition.status is Status.QUARANTINED


# -- rows from before keymux ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "until", "expected"),
    [
        pytest.param(Status.HEALTHY, None, 0.0, id="healthy"),
        pytest.param(Status.HEALTHY, WALL + 9_000, 0.0, id="healthy with a date left over"),
        pytest.param(Status.RATE_LIMITED, WALL + 9_000, 9.0, id="rate limited"),
        pytest.param(Status.RATE_LIMITED, None, 0.0, id="rate limited without a date"),
        pytest.param(Status.ERROR, WALL - 9_000, 0.0, id="error, long over"),
        pytest.param(Status.ERROR, None, 0.0, id="error without a date"),
        pytest.param(Status.EXHAUSTED, WALL + 80_000_000, 80_000.0, id="exhausted, 24 hours"),
        pytest.param(Status.EXHAUSTED, WALL + 10**12, 86_400.0, id="exhausted for decades"),
        pytest.param(Status.EXHAUSTED, None, 0.0, id="exhausted without a date"),
    ],
)
def test_rows_of_old_databases_are_understood(
    status: Status, until: int | None, expected: float
) -> None:
    """The four states of old, with dates that may be missing, over, or absurd."""
    process = Process()
    state = KeyState(status=status, cooldown_until=until)
    put_key(process.pool, KeyRecord("a", "s", state), process.clocks)

    assert process.ready_after() == expected


def test_a_key_of_old_that_cools_is_probed_before_it_is_used() -> None:
    """A date that is missing means: find out with one request."""
    process = Process()
    state = KeyState(status=Status.RATE_LIMITED)
    put_key(process.pool, KeyRecord("a", "s", state), process.clocks)

    assert process.world.must_take().is_trial
    assert process.world.take() is None


def test_a_replaced_key_is_never_used() -> None:
    """A backup key has taken over: the old one gets no requests and no probes."""
    process = Process()
    state = KeyState(status=Status.EXHAUSTED, cooldown_until=WALL)
    put_key(process.pool, KeyRecord("a", "s", state, replaced_by="b"), process.clocks)
    process.clock.pass_s(1e6)

    assert process.world.take() is None
    assert process.pool.outlook(step(), process.clock()).until is None


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        pytest.param(ProviderState(), 0.0, id="healthy"),
        pytest.param(ProviderState(Status.ERROR, WALL + 5000), 5.0, id="down for five seconds"),
        pytest.param(ProviderState(Status.ERROR, None), 0.0, id="down without a date: probed"),
    ],
)
def test_a_providers_state_is_understood(state: ProviderState, seconds: float) -> None:
    """A provider is as the store says."""
    process = Process().add("a")
    put_provider(process.pool, state, process.clocks)

    assert process.ready_after() == seconds


def test_an_operators_word_opens_a_blocked_provider() -> None:
    """A reset lifts the block on the way out as well."""
    process = Process().add("a")
    process.world.hit(PolicyBlocked())
    put_provider(process.pool, ProviderState(generation=9), process.clocks)

    assert process.world.serve() == "a"


# -- what is stored ------------------------------------------------------------------------------
def test_a_deadline_is_never_stored_early() -> None:
    """Rounding to milliseconds may only lengthen what an upstream told."""
    process = Process()
    moment = process.clock() + 0.0004

    assert process.clocks.to_wall(moment) == WALL + 1


@given(st.floats(0, 86_000), st.floats(0, 1e8), st.integers(0, 10**12))
def test_a_moment_comes_back_from_the_wall(ahead: float, uptime: float, wall_ms: int) -> None:
    """To the wall and back is the same moment, within the grain of the stored time."""
    process = Process(uptime=uptime, wall_ms=wall_ms)
    moment = uptime + ahead
    back = process.clocks.deadline(process.clocks.to_wall(moment), 0)

    assert moment - 0.002 <= back <= moment + 0.002


def test_generations_of_a_provider_only_grow() -> None:
    """Its own cooldowns and the block of its egress count as one history in the store."""
    process = Process().add("a")
    generations = [provider_state(process.pool, process.clocks).generation]
    for _ in range(3):
        process.world.hit(BadGateway(told=5.0))
        generations.append(provider_state(process.pool, process.clocks).generation)
        process.clock.pass_s(5.0)
    process.world.hit(PolicyBlocked())
    generations.append(provider_state(process.pool, process.clocks).generation)
    put_provider(process.pool, ProviderState(generation=generations[-1] + 1), process.clocks)
    generations.append(provider_state(process.pool, process.clocks).generation)

    assert generations == sorted(set(generations))


# -- several processes ---------------------------------------------------------------------------
def _cooling(until_s: float, generation: int, status: Status = Status.EXHAUSTED) -> KeyRecord:
    state = KeyState(
        status=status, cooldown_until=WALL + round(until_s * 1000), generation=generation
    )
    return KeyRecord("a", "s", state)


def _own(process: Process, until_s: float | None, generation: int, status: Status) -> None:
    key = process.pool.keys["a"]
    until = None if until_s is None else process.clock() + until_s
    key.gate.change(Condition(status=status, until=until, generation=generation))
    process.pool.wake_later(key.gate, key)


@pytest.mark.parametrize(
    ("own", "stored", "expected"),
    [
        pytest.param((60.0, 5), _cooling(10.0, 6), 60.0, id="later news, earlier deadline"),
        pytest.param((10.0, 5), _cooling(60.0, 6), 60.0, id="later news, later deadline"),
        pytest.param((60.0, 5), _cooling(10.0, 5), 60.0, id="same generation, earlier deadline"),
        pytest.param((10.0, 5), _cooling(60.0, 5), 60.0, id="same generation, later deadline"),
        pytest.param((10.0, 5), _cooling(60.0, 4), 10.0, id="older news"),
        pytest.param(
            (60.0, 5),
            KeyRecord("a", "s", KeyState(generation=6)),
            0.0,
            id="later news: another process's probe went well",
        ),
        pytest.param(
            (60.0, 5),
            KeyRecord("a", "s", KeyState(generation=5)),
            60.0,
            id="same generation: it had not heard of this",
        ),
    ],
)
def test_of_two_deadlines_the_later_holds(
    own: tuple[float, int], stored: KeyRecord, expected: float
) -> None:
    """What an upstream told one process is never shortened by another."""
    process = Process().add("a")
    _own(process, own[0], own[1], Status.EXHAUSTED)
    merge_key(process.pool, stored, process.clocks)

    assert process.ready_after() == expected


@pytest.mark.parametrize("generation", [5, 6])
def test_quarantine_is_taken_over(generation: int) -> None:
    """A key that one process found revoked gets no traffic from any."""
    process = Process().add("a")
    _own(process, 10.0, 5, Status.EXHAUSTED)
    state = KeyState(status=Status.QUARANTINED, generation=generation)
    merge_key(process.pool, KeyRecord("a", "s", state), process.clocks)

    assert process.pool.keys["a"].gate.condition.status is Status.QUARANTINED


def test_ones_own_quarantine_is_kept() -> None:
    """A success of another process in the same generation does not lift it."""
    process = Process().add("a")
    _own(process, None, 5, Status.QUARANTINED)
    merge_key(process.pool, KeyRecord("a", "s", KeyState(generation=5)), process.clocks)

    assert process.pool.keys["a"].gate.condition.status is Status.QUARANTINED


def test_cooldowns_of_models_add_up() -> None:
    """Another process throttled one model, this one another: the later deadlines hold."""
    process = Process().add("a")
    process.world.hit(KeyThrottled(told=50.0))
    shades = {
        MODEL: Shade(Status.RATE_LIMITED, WALL + 20_000, whole_group=True),
        OTHER_MODEL: Shade(Status.RATE_LIMITED, WALL + 30_000, whole_group=True),
    }
    merge_key(process.pool, KeyRecord("a", "s", KeyState(shades=shades)), process.clocks)

    assert process.ready_after(OTHER_MODEL) == 30.0
    assert process.ready_after() == 20.0


def test_ones_own_cooldown_of_a_model_is_not_forgotten() -> None:
    """News of another process about the key says nothing about what this one was told."""
    process = Process().add("a")
    process.world.hit(ModelNotPermitted())
    merge_key(process.pool, KeyRecord("a", "s", KeyState(generation=9)), process.clocks)

    assert process.ready_after() == 6 * HOUR


def test_a_key_that_another_process_added_joins() -> None:
    """A key that is not in the pool yet is put there."""
    process = Process()
    merge_key(process.pool, KeyRecord("a", "s"), process.clocks)

    assert process.world.serve() == "a"


def test_probes_in_flight_survive_news_without_content() -> None:
    """Reading one's own state back from the store changes nothing."""
    process = Process().add("a")
    process.world.hit(KeySpent(told=10.0))
    record = process.record()
    process.clock.pass_s(10.0)
    process.world.must_take()
    merge_key(process.pool, record, process.clocks)

    assert process.world.take() is None


@pytest.mark.parametrize(
    ("generation", "seconds"),
    [
        pytest.param(1, 60.0, id="older news is not taken over"),
        pytest.param(9, 60.0, id="later news does not shorten the wait"),
    ],
)
def test_a_providers_deadline_is_not_shortened(generation: int, seconds: float) -> None:
    """What the provider told this process holds."""
    process = Process().add("a")
    process.world.hit(BadGateway(told=60.0))
    news = ProviderState(Status.ERROR, WALL + 5000, generation=generation)
    merge_provider(process.pool, news, process.clocks)

    assert process.ready_after() == seconds


def test_a_providers_recovery_is_taken_over() -> None:
    """Another process's probe went well."""
    process = Process().add("a")
    process.world.hit(BadGateway(told=60.0))
    merge_provider(process.pool, ProviderState(generation=9), process.clocks)

    assert process.ready_after() == 0.0


def test_a_block_is_not_lifted_by_another_processes_news() -> None:
    """U09: a cooldown that another process reports leaves the block where it is."""
    process = Process().add("a")
    process.world.hit(PolicyBlocked())
    merge_provider(process.pool, ProviderState(generation=9), process.clocks)

    assert process.world.take() is None


def test_a_block_is_taken_over() -> None:
    """U09: what one process is refused for its region, no other tries again."""
    process = Process().add("a")
    merge_provider(process.pool, ProviderState(Status.QUARANTINED, generation=9), process.clocks)

    assert process.world.take() is None


def test_putting_a_key_again_and_again_leaves_no_pile() -> None:
    """A key with cooldowns of many models is read a thousand times: one alarm for each gate."""
    process = Process()
    shades = {
        f"model{number}": Shade(
            Status.RATE_LIMITED, WALL + 60_000 + number, whole_group=bool(number % 2)
        )
        for number in range(10)
    }
    record = KeyRecord("a", "s", KeyState(shades=shades))
    for generation in range(1000):
        put_key(
            process.pool,
            replace(record, state=replace(record.state, generation=generation)),
            process.clocks,
        )

    assert len(process.pool._alarms) == 10


def test_an_operators_reset_ends_the_cooldowns_of_models() -> None:
    """Stored without cooldowns, the key has none, and its failures are forgotten."""
    process = Process().add("a")
    process.world.hit(ModelNotPermitted())
    process.world.hit(ServerFailed(), model=OTHER_MODEL)
    put_key(process.pool, KeyRecord("a", "s", KeyState(generation=9)), process.clocks)

    assert process.ready_after() == 0.0
    assert process.pool.keys["a"].models[OTHER_MODEL].condition.failures == 0


# -- what another process has probed ---------------------------------------------------------------
def _warming_up(world: World, model: str = MODEL) -> list[int]:
    """How many leases are given at once, wave after wave, while all go well."""
    waves = []
    for _ in range(5):
        leases: list[Lease] = []
        while len(leases) < 20 and (lease := world.take(model)) is not None:
            leases.append(lease)
        for lease in leases:
            world.leasing.opened(lease)
            world.leasing.give_back(lease, None)
        waves.append(len(leases))
    return waves


@pytest.mark.parametrize(
    ("fault", "group"),
    [
        pytest.param(KeySpent(told=10.0), "", id="a key"),
        pytest.param(KeyThrottled(told=10.0), "", id="a key of no group, for one model"),
        pytest.param(KeyThrottled(told=10.0), "team", id="a group, for one model"),
        pytest.param(ModelNotPermitted(), "", id="a key, for one model"),
    ],
)
def test_after_a_siblings_probe_a_key_warms_up(fault: UpstreamFault, group: str) -> None:
    """C04: all processes hear of a success at once; none of them comes with everything."""
    ours, theirs = Process().add("a", group=group), Process().add("a", group=group)
    for process in (ours, theirs):
        process.world.hit(fault)
        merge_key(process.pool, process.record(), process.clocks)
        process.clock.pass_s(7 * HOUR)
    theirs.world.serve()
    merge_key(ours.pool, theirs.record(), ours.clocks)

    assert ours.record().state.status is Status.HEALTHY
    assert not ours.record().state.shades
    assert _warming_up(ours.world)[0] == 1
    assert _warming_up(ours.world)[-1] == 20


def test_the_next_wave_is_longer_wherever_the_probe_was() -> None:
    """A sibling's success does not make this process forget how often a key was throttled."""
    ours = Process().add("a")
    ours.world.hit(KeyThrottled())
    first = ours.ready_after()
    merge_key(ours.pool, KeyRecord("a", "s", KeyState(generation=9)), ours.clocks)
    ours.world.hit(KeyThrottled())

    assert ours.ready_after() == 2 * first


def test_after_a_siblings_probe_a_provider_warms_up() -> None:
    """C04: the same holds for a provider that was down."""
    ours, theirs = Process().add("a"), Process().add("a")
    for process in (ours, theirs):
        process.world.hit(BadGateway(told=10.0))
        process.clock.pass_s(60.0)
    theirs.world.serve()
    merge_provider(ours.pool, provider_state(theirs.pool, theirs.clocks), ours.clocks)

    assert _warming_up(ours.world)[0] == 1


def test_what_never_cooled_here_need_not_warm_up() -> None:
    """News of a trouble that came and went elsewhere does not slow this process down."""
    ours = Process().add("a")
    merge_key(ours.pool, KeyRecord("a", "s", KeyState(generation=9)), ours.clocks)

    assert _warming_up(ours.world)[0] == 20


def test_one_who_warms_up_goes_on_where_it_was() -> None:
    """Further news of the same key does not open the gate all the way."""
    ours = Process().add("a")
    ours.world.hit(KeySpent(told=10.0))
    ours.clock.pass_s(10.0)
    ours.world.serve()
    merge_key(ours.pool, KeyRecord("a", "s", KeyState(generation=9)), ours.clocks)

    assert _warming_up(ours.world)[0] == 1


def test_a_cooldown_that_runs_here_is_not_ended_elsewhere() -> None:
    """Another process was told to wait for a shorter time; this one waits for its own."""
    ours = Process().add("a")
    ours.world.hit(KeyThrottled(told=100.0))
    ours.clock.pass_s(50.0)
    merge_key(ours.pool, KeyRecord("a", "s", KeyState(generation=9)), ours.clocks)

    assert ours.ready_after() == 50.0


def test_a_group_is_as_well_as_all_who_carry_its_cooldown() -> None:
    """News of one key of a group says nothing of a cooldown that is stored with another."""
    ours = Process().add("a", "b", group="team")
    ours.world.hit(KeyThrottled(told=10.0), key="a")
    ours.clock.pass_s(10.0)
    merge_key(ours.pool, ours.record("b"), ours.clocks)
    merge_key(ours.pool, KeyRecord("b", "s", KeyState(generation=9), group="team"), ours.clocks)

    assert ours.pool.groups["team"].models[MODEL].condition.status is Status.RATE_LIMITED


# -- suspicion -------------------------------------------------------------------------------------
def test_one_refusal_here_and_one_there_condemn_a_key() -> None:
    """The second refusal counts wherever the first one was."""
    ours, theirs = Process().add("a"), Process().add("a")
    theirs.world.hit(KeyRejected())
    merge_key(ours.pool, theirs.record(), ours.clocks)
    ours.world.hit(KeyRejected())

    assert ours.pool.keys["a"].gate.condition.status is Status.QUARANTINED


def test_a_success_anywhere_ends_the_suspicion() -> None:
    """Refused, served, refused: these are not two refusals in a row, in whatever process."""
    ours, theirs = Process().add("a"), Process().add("a")
    theirs.world.hit(KeyRejected())
    merge_key(ours.pool, theirs.record(), ours.clocks)
    theirs.world.serve()
    merge_key(ours.pool, theirs.record(), ours.clocks)
    ours.world.hit(KeyRejected())

    assert ours.pool.keys["a"].gate.condition.is_healthy
