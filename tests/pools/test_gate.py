"""Gates: how many leases pass, by condition and generation."""

from msgspec.structs import replace

from keymux.core.health import Condition, Status
from keymux.pools.gate import Gate


def _closed(until: float | None, generation: int = 1) -> Condition:
    return Condition(status=Status.RATE_LIMITED, until=until, generation=generation)


def test_a_healthy_gate_lets_everybody_through() -> None:
    """A gate in good health has no cap."""
    gate = Gate()
    for _ in range(1000):
        gate.take()

    assert gate.is_open(0.0)


def test_a_cooling_gate_is_closed_until_its_time() -> None:
    """Nothing passes before the cooldown is over."""
    gate = Gate()
    gate.change(_closed(until=10.0))

    assert [gate.is_open(now) for now in (0.0, 9.999, 10.0)] == [False, False, True]


def test_a_gate_that_is_due_lets_one_probe_through() -> None:
    """The second has to wait until the first is over."""
    gate = Gate()
    gate.change(_closed(until=10.0))
    probe = gate.take()
    during = gate.is_open(11.0)

    assert not during
    assert gate.give_back(probe)
    assert gate.is_open(11.0)


def test_a_gate_without_an_end_stays_closed() -> None:
    """Only an operator opens it."""
    gate = Gate()
    gate.change(_closed(until=None))

    assert not gate.is_open(1e12)


def test_a_ramp_caps_what_is_in_flight() -> None:
    """While warming up, as many leases pass as the ramp allows."""
    gate = Gate()
    gate.change(Condition(generation=1, ramp=2))
    gate.take()
    gate.take()

    assert not gate.is_open(0.0)


def test_leases_of_an_older_generation_do_not_count() -> None:
    """A stream that began before the cooldown neither blocks the probe nor frees a place."""
    gate = Gate()
    old = gate.take()
    gate.change(_closed(until=10.0))
    opened_at_once = gate.is_open(10.0)
    gate.take()

    assert opened_at_once
    assert not gate.give_back(old)
    assert not gate.is_open(10.0)


def test_a_change_within_a_generation_keeps_the_count() -> None:
    """A longer deadline does not forget the probe in flight."""
    gate = Gate()
    gate.change(_closed(until=10.0))
    gate.take()
    moved = gate.change(replace(gate.condition, until=12.0))

    assert not moved
    assert not gate.is_open(13.0)


def test_giving_back_to_a_free_gate_wakes_nobody() -> None:
    """Only a gate with a cap may have been opened by it."""
    gate = Gate()

    assert not gate.give_back(gate.take())


def test_calm_means_that_a_success_changes_nothing() -> None:
    """Counted failures and suspicion are worth a look, a clean record is not."""
    gate = Gate()
    calm = gate.is_calm
    gate.change(Condition(failures=1))
    counted = gate.is_calm
    gate.change(Condition(suspected=5.0))

    assert (calm, counted, gate.is_calm, gate.is_free) == (True, False, False, True)
