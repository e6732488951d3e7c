"""From the model a client asks for to the route that serves it."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct

from keymux.core.faults import NotAllowed, UnknownModel
from keymux.core.vocabulary import Caller, Route

_WIDE_CONTEXT = "[1m]"
_LONGEST_NAME = 500
_REMEMBERED = 1024


class Model(Struct, frozen=True):
    """A model as clients see it.

    Attributes:
        id: its public id.
        name: its name for people.
        route: how it is served.
        created: when it was released, in seconds since 1970; 0 when unknown.
    """

    id: str
    name: str
    route: Route
    created: int = 0


class Routes:
    """All models by every name they answer to.

    A name is looked up without a trailing ``[1m]`` (Claude Code's mark for the wide context,
    which no provider knows), first as it stands, then by the longest alias that ends in ``*``.
    """

    def __init__(self, models: Iterable[tuple[Model, Iterable[str]]]) -> None:
        by_name: dict[str, Model] = {}
        prefixes: dict[str, Model] = {}
        ids: dict[str, Model] = {}
        for model, aliases in models:
            ids[model.id] = model
            by_name[model.id] = model
            for alias in aliases:
                if alias.endswith("*"):
                    prefixes[alias[:-1]] = model
                else:
                    by_name[alias] = model
        self.models: Mapping[str, Model] = MappingProxyType(ids)
        self._by_name = by_name
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))
        self._remembered: dict[str, Model] = {}

    def find(self, asked: str) -> Model | None:
        """The model that goes by a name, or None."""
        model = self._by_name.get(asked) or self._remembered.get(asked)
        if model is not None:
            return model
        if len(asked) > _LONGEST_NAME:
            return None  # a client must not fill the memory with names
        name = _without_marks(asked)
        model = self._by_name.get(name) or next(
            (model for prefix, model in self._prefixes if name.startswith(prefix)), None
        )
        if model is not None and len(self._remembered) < _REMEMBERED:
            self._remembered[asked] = model
        return model

    def resolve(self, asked: str, caller: Caller) -> Route:
        """The route for a caller's request.

        Raises:
            UnknownModel: nothing serves it.
            NotAllowed: the caller may not use it.
        """
        model = self.find(asked)
        if model is None:
            raise UnknownModel(model=asked[:200])
        if caller.models and model.id not in caller.models:
            raise NotAllowed(model=asked[:200])
        return model.route


def _without_marks(name: str) -> str:
    while name[-len(_WIDE_CONTEXT) :].lower() == _WIDE_CONTEXT:
        name = name[: -len(_WIDE_CONTEXT)]
    return name
