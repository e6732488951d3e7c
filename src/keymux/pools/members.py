"""Upstream keys and the quota groups they belong to."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from keymux.core.egress import DIRECT
from keymux.pools.egress import Exit, Exits
from keymux.pools.gate import Gate

_NO_GATES: Mapping[str, Gate] = {}
"""Shared by all that have none, never changed: a choice looks into it for every key it looks at."""


class UpstreamKey:
    """A key of a pool.

    Attributes:
        id: as in the store.
        secret: never shown.
        group: the keys that share its allowance.
        gate: its own health.
        models: gates for single models that this key alone is kept from.
        shared: the same for its whole group; kept here too, to choose without a look at the group.
        exits: the ways out of this host that it may use.
        lanes: the models in whose lane it stands.
        replaced: True once a backup key has taken over.
        is_out: never to be chosen: replaced, or removed from the pool.
    """

    __slots__ = (
        "exits",
        "gate",
        "group",
        "id",
        "is_out",
        "label",
        "lanes",
        "models",
        "replaced",
        "secret",
        "shared",
    )

    def __init__(
        self, key_id: str, secret: str, group: "Group", label: str = "", gate: Gate | None = None
    ) -> None:
        self.id = key_id
        self.secret = secret
        self.group = group
        self.label = label
        self.gate = gate or Gate()
        self.models: Mapping[str, Gate] = _NO_GATES
        self.shared = group.models
        self.exits = Exits(((Exit(DIRECT, DIRECT, None),),), is_bound=False)
        self.lanes: set[str] = set()
        self.replaced = False
        self.is_out = False

    def __repr__(self) -> str:
        return f"<UpstreamKey {self.id} {self.gate.condition.status}>"

    def model_gate(self, model: str, new: Callable[[], Gate]) -> Gate:
        """The gate for one model, made now if there is none."""
        if model not in self.models:
            self.models = {**self.models, model: new()}
        return self.models[model]

    def is_usable(self, at: float) -> bool:
        """Whether its own health, single models apart, lets it be used at a time to come."""
        return not self.is_out and (
            self.gate.condition.is_healthy or self.gate.condition.is_due(at)
        )


class Group:
    """Upstream keys that share one allowance.

    Attributes:
        name: unique within the pool.
        keys: by id, oldest first.
        models: gates for single models that all its keys are kept from.
        waiting: for each of these models, the keys that such a gate keeps out of the lane.
        carriers: for each of these models, the keys whose stored state tells of the cooldown.
    """

    __slots__ = ("carriers", "keys", "models", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys: dict[str, UpstreamKey] = {}
        self.models: Mapping[str, Gate] = _NO_GATES
        self.waiting: dict[str, OrderedDict[UpstreamKey, None]] = {}
        self.carriers: dict[str, dict[UpstreamKey, None]] = {}

    def model_gate(self, model: str, new: Callable[[], Gate]) -> Gate:
        """The gate for one model, made now if there is none."""
        if model not in self.models:
            self.models = {**self.models, model: new()}
            for key in self.keys.values():
                key.shared = self.models
        return self.models[model]

    def is_usable(self, at: float) -> bool:
        """Whether any of its keys could be used at a time to come."""
        return any(key.is_usable(at) for key in self.keys.values())
