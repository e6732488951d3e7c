"""The order in which the keys of a pool take turns, for every model apart.

A *lane* holds the keys that may be ready for a model. A key that turns out not to be ready when its
turn comes leaves the lane, and whatever keeps it is asked to bring it back: an alarm when a
cooldown is the reason, otherwise the lease that is being probed, or the operator. So every key is
looked at about once for each time that it is used or falls ill, however many keys there are.

Keys that only their quota group's gate keeps out wait at that gate. While it lets single leases
through, one key at a time comes back, and not all of them for one lease. Keys whose exits are all
closed wait at these.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

from keymux.core.retrying import Step
from keymux.pools.alarms import Alarms
from keymux.pools.egress import WaysOut
from keymux.pools.gate import Gate
from keymux.pools.members import Group, UpstreamKey

Lane = deque[UpstreamKey]
Ask = Callable[[Gate, UpstreamKey | Group, str], None]


class Lanes:
    """Chooses among keys.

    Args:
        keys: of the pool, by id.
        alarms: ring when a cooldown is over.
        ways: the exits of the keys.
        ask: called for a gate that lacks nothing but a permission for its probe.
    """

    __slots__ = ("_alarms", "_ask", "_by_model", "_keys", "_ways")

    def __init__(
        self, keys: Mapping[str, UpstreamKey], alarms: Alarms, ways: WaysOut, ask: Ask
    ) -> None:
        self._keys = keys
        self._alarms = alarms
        self._ways = ways
        self._ask = ask
        self._by_model: dict[str, Lane] = {}

    # -- choosing ----------------------------------------------------------------------------
    def next_key(self, step: Step, now: float) -> UpstreamKey | None:
        """The key whose turn it is, or None when none is ready; it goes to the end of the lane."""
        model = step.target.model
        if step.only_key is not None:
            key = self._keys.get(step.only_key)
            if key is None or self.is_ready(key, model, now):
                return key
            self._look_into(key, model, now)
            return None
        lane = self._by_model.get(model)
        if lane is None:
            lane = self._new_lane(model)
        avoids, left = step.avoid_keys or step.avoid_groups, len(lane)
        while left:
            key = lane.popleft()
            if not self.is_ready(key, model, now):
                left += self._set_aside(key, model, lane, now) - 1
                continue
            lane.append(key)
            if not avoids or not _is_avoided(key, step):
                return key
            left -= 1
        return None

    def has_key(self, step: Step, now: float) -> bool:
        """Whether a key is ready; nobody's turn is used up."""
        key = self.next_key(step, now)
        if key is not None and step.only_key is None:
            lane = self._by_model[step.target.model]
            lane.appendleft(lane.pop())
        return key is not None

    def is_ready(self, key: UpstreamKey, model: str, now: float) -> bool:
        """Whether a lease on a key for a model could be given."""
        if key.is_out or not key.gate.is_open(now) or not key.exits.is_open:
            return False
        if key.models and model in key.models and not key.models[model].is_open(now):
            return False
        shared = key.shared
        return not (shared and model in shared and not shared[model].is_open(now))

    def _new_lane(self, model: str) -> Lane:
        lane = self._by_model[model] = deque(self._keys.values())
        for key in lane:
            key.lanes.add(model)
        return lane

    def _set_aside(self, key: UpstreamKey, model: str, lane: Lane, now: float) -> int:
        """Let a key that is not ready leave its lane; gives how many came in its place."""
        key.lanes.discard(model)
        if not self._look_into(key, model, now):
            key.group.waiting.setdefault(model, OrderedDict())[key] = None
            return 0
        other = _first_waiting(key.group, model)
        if other is None:
            return 0
        other.lanes.add(model)
        lane.appendleft(other)
        return 1

    def _look_into(self, key: UpstreamKey, model: str, now: float) -> bool:
        """See to what keeps a key; True if it is kept by itself, and not by its group alone."""
        kept = key.is_out
        for gate, about in ((key.gate, ""), (key.models.get(model), model)):
            if not kept and gate is not None and not gate.is_open(now):
                self._see_to(gate, key, about, now)
                kept = True
        if not kept and not key.exits.is_open:
            self._ways.wait(key)
            kept = True
        shared = key.group.models.get(model)
        if not kept and shared is not None:
            self._see_to(shared, key.group, model, now)
        return kept

    def _see_to(self, gate: Gate, holder: UpstreamKey | Group, model: str, now: float) -> None:
        """Ask for what a gate needs to open: time, or a permission; else a lease will end."""
        if not gate.condition.is_due(now):
            self._alarms.set(gate, holder, model)
        elif gate.wants_permit(now):
            self._ask(gate, holder, model)

    # -- bringing back -----------------------------------------------------------------------
    def bring_back(self, key: UpstreamKey) -> None:
        """Put a key at the end of every lane in which it is missing."""
        for model, lane in self._by_model.items():
            if model not in key.lanes:
                key.lanes.add(model)
                lane.append(key)

    def bring_group_back(self, group: Group, model: str) -> None:
        """Put keys that wait at a group's gate back: all of them, or one for a single lease."""
        lane = self._by_model.get(model)
        is_free = group.models[model].is_free
        while lane is not None and (key := _first_waiting(group, model)):
            key.lanes.add(model)
            lane.append(key)
            if not is_free:
                return


def _first_waiting(group: Group, model: str) -> UpstreamKey | None:
    """The key that has waited longest at a group's gate; it waits no more."""
    waiting = group.waiting.get(model)
    while waiting:
        key, _ = waiting.popitem(last=False)
        if model not in key.lanes and not key.is_out:
            return key
    return None


def _is_avoided(key: UpstreamKey, step: Step) -> bool:
    return key.id in step.avoid_keys or key.group.name in step.avoid_groups
