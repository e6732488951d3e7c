"""Alarms: when what is closed for a time opens again."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from keymux.core.health import Condition, Status
from keymux.pools.alarms import Alarms
from keymux.pools.gate import Gate
from keymux.pools.members import Group, UpstreamKey
from tests.pools.rig import MODEL, OTHER_MODEL


def _key(name: str = "a", group: Group | None = None) -> UpstreamKey:
    home = group or Group(name)
    key = home.keys[name] = UpstreamKey(name, "secret", home)
    return key


def _close(gate: Gate, until: float | None, status: Status = Status.RATE_LIMITED) -> None:
    gate.change(Condition(status=status, until=until, generation=gate.condition.generation + 1))


def _cooling(name: str, until: float, alarms: Alarms) -> UpstreamKey:
    key = _key(name)
    _close(key.gate, until)
    alarms.set(key.gate, key)
    return key


def test_an_alarm_rings_once_and_in_time() -> None:
    """Not before the deadline, and not a second time."""
    alarms = Alarms()
    key = _cooling("a", 10.0, alarms)
    rung = [alarms.ring(now) for now in (9.9, 10.0, 11.0)]

    assert rung == [[], [(key, "")], []]


def test_the_next_time_is_known_in_advance() -> None:
    """Whoever waits need not look before that time."""
    alarms = Alarms()
    before = alarms.next
    for name, until in (("a", 20.0), ("b", 10.0)):
        _cooling(name, until, alarms)
    first = alarms.next
    alarms.ring(10.0)

    assert (before, first, alarms.next) == (inf, 10.0, 20.0)


def test_a_deadline_that_moves_away_rings_later() -> None:
    """The alarm follows the deadline, without a second one."""
    alarms = Alarms()
    key = _cooling("a", 10.0, alarms)
    for until in (20.0, 30.0):
        _close(key.gate, until)
        alarms.set(key.gate, key)
    count, early = len(alarms), alarms.ring(10.0)

    assert (count, early) == (1, [])
    assert alarms.next == 30.0
    assert alarms.ring(30.0) == [(key, "")]


def test_a_deadline_that_moves_nearer_rings_earlier() -> None:
    """After an operator's reset a shorter cooldown counts, and rings once."""
    alarms = Alarms()
    key = _cooling("a", 100.0, alarms)
    _close(key.gate, 10.0)
    alarms.set(key.gate, key)

    assert alarms.ring(10.0) == [(key, "")]
    assert alarms.ring(100.0) == []


def test_what_needs_no_alarm_gets_none() -> None:
    """Good health and a wait for an operator have no end that time brings."""
    alarms, key = Alarms(), _key()
    alarms.set(key.gate, key)
    _close(key.gate, None, Status.QUARANTINED)
    alarms.set(key.gate, key)

    assert len(alarms) == 0


def test_a_gate_that_got_well_does_not_ring() -> None:
    """An alarm that has lost its reason is dropped."""
    alarms = Alarms()
    key = _cooling("a", 10.0, alarms)
    key.gate.change(Condition(generation=9))

    assert alarms.ring(10.0) == []
    assert len(alarms) == 0


def test_the_soonest_is_that_of_the_model() -> None:
    """What keeps another model away does not count; what keeps the whole key away does."""
    alarms = Alarms()
    group = Group("team")
    _key("member", group)
    for model, until in ((MODEL, 50.0), (OTHER_MODEL, 5.0)):
        gate = group.model_gate(model, Gate)
        _close(gate, until)
        alarms.set(gate, group, model)
    alone = alarms.soonest(MODEL)
    _cooling("b", 40.0, alarms)

    assert alone == (50.0, Status.RATE_LIMITED)
    assert alarms.soonest(MODEL) == (40.0, Status.RATE_LIMITED)


def test_the_soonest_of_many_is_found_behind_any_number_of_others() -> None:
    """A thousand cooldowns of other models come first; that of this model is still found."""
    alarms = Alarms()
    for number in range(1000):
        key = _key(f"key{number}")
        gate = key.model_gate(f"model{number}", Gate)
        _close(gate, float(number))
        alarms.set(gate, key, f"model{number}")

    assert alarms.soonest("model999") == (999.0, Status.RATE_LIMITED)


def test_the_soonest_is_told_with_its_present_deadline() -> None:
    """A deadline that has moved is told as it is, not as it was."""
    alarms = Alarms()
    key = _cooling("a", 10.0, alarms)
    _cooling("b", 30.0, alarms)
    _close(key.gate, 20.0)

    assert alarms.soonest(MODEL) == (20.0, Status.RATE_LIMITED)


def test_a_key_that_is_kept_for_longer_promises_nothing() -> None:
    """A model's cooldown says nothing when the key itself is quarantined or cools for longer."""
    alarms = Alarms()
    condemned, spent = _key("condemned"), _key("spent")
    for key, until, status in ((condemned, None, Status.QUARANTINED), (spent, 90.0, Status.ERROR)):
        gate = key.model_gate(MODEL, Gate)
        _close(gate, 10.0)
        _close(key.gate, until, status)
        alarms.set(gate, key, MODEL)
        alarms.set(key.gate, key)

    assert alarms.soonest(MODEL) == (90.0, Status.ERROR)


def test_a_group_promises_as_long_as_one_of_its_keys_can_be_used() -> None:
    """The cooldown of a quota group counts while a single key of it is well."""
    alarms, group = Alarms(), Group("team")
    keys = [_key(name, group) for name in "ab"]
    gate = group.model_gate(MODEL, Gate)
    _close(gate, 10.0)
    alarms.set(gate, group, MODEL)
    _close(keys[0].gate, None, Status.QUARANTINED)
    one_left = alarms.soonest(MODEL)
    keys[1].is_out = True

    assert one_left == (10.0, Status.RATE_LIMITED)
    assert alarms.soonest(MODEL) is None


def test_alarms_that_are_left_over_do_not_pile_up() -> None:
    """Reset and cooled again ten thousand times, each time for less: the heap stays small."""
    alarms, key = Alarms(), _key()
    for number in range(10_000):
        _close(key.gate, 1e9 - number)
        alarms.set(key.gate, key)

    assert len(alarms) <= 70
    assert alarms.ring(1e9) == [(key, "")]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 60))),
        min_size=1,
        max_size=80,
    )
)
def test_no_alarm_is_ever_missed(closings: list[tuple[int, int | None]]) -> None:
    """Whatever is closed and opened in which order, every gate rings at the end of its cooldown."""
    alarms = Alarms()
    keys = [_key(str(number)) for number in range(5)]
    rung: dict[str, float] = {}
    now = 0.0
    for index, seconds in closings:
        gate = keys[index].gate
        if seconds is None:
            gate.change(Condition(generation=gate.condition.generation + 1))
            rung[keys[index].id] = 0.0
        else:
            _close(gate, now + seconds)
            rung.pop(keys[index].id, None)
        alarms.set(gate, keys[index])
        now += 1.0
        for holder, _ in alarms.ring(now):
            assert isinstance(holder, UpstreamKey)
            rung[holder.id] = now
    for holder, _ in alarms.ring(now + 100):
        assert isinstance(holder, UpstreamKey)
        rung[holder.id] = now

    assert all(key.gate.condition.is_healthy or key.id in rung for key in keys)
