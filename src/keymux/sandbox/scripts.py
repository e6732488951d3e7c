"""Which behaviour meets which request: scripts for keys and dialects, one behaviour a request."""

from collections.abc import Iterator, Sequence

from keymux.sandbox.asked import Asked, Endpoint
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.behaviours import KEY_PREFIX, script_of_key


class _Script:
    """Behaviours one after the other; the last one stays."""

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self._behaviours = behaviours
        self._next = 0

    def next(self) -> Behaviour:
        behaviour = self._behaviours[min(self._next, len(self._behaviours) - 1)]
        self._next += 1
        return behaviour


class Scripts:
    """The scripts that were set, and those that keys carry in their names.

    What was set for a key comes before what was set for its dialect, and that before the key's own
    name. Within each, what was set for the endpoint comes first.
    """

    def __init__(self) -> None:
        self._set: dict[tuple[str, Endpoint | None], _Script] = {}
        self._named: dict[tuple[str, str], _Script] = {}

    def set(self, who: str, script: Sequence[Behaviour], on: Endpoint | None = None) -> None:
        """Give a key or a dialect a script, from its first behaviour on.

        Args:
            who: an upstream key, or the name of a dialect.
            script: at least one behaviour.
            on: the endpoint it is for, None for all.
        """
        if not script:
            raise ValueError("A script has at least one behaviour.")
        self._set[who, on] = _Script(tuple(script))

    def clear(self) -> None:
        """Forget what was set, and begin the named ones anew."""
        self._set.clear()
        self._named.clear()

    def knows(self, key: str) -> bool:
        """Whether a key is accepted."""
        return key.startswith(KEY_PREFIX) or any(who == key for who, _ in self._set)

    def next(self, asked: Asked) -> Behaviour:
        """The behaviour for a request, which counts as one of the script."""
        for at in _places(asked):
            if script := self._set.get(at):
                return script.next()
        carried = (asked.place.dialect, asked.key)
        script = self._named.get(carried)
        if script is None:
            script = self._named[carried] = _Script(script_of_key(asked.key))
        return script.next()


def _places(asked: Asked) -> Iterator[tuple[str, Endpoint | None]]:
    for who in (asked.key, asked.place.dialect):
        yield who, asked.place.endpoint
        yield who, None
