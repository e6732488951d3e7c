"""The control API: what another process asks the sandbox about itself."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from keymux.sandbox.answer import Answer
from keymux.sandbox.asked import Asked, Endpoint
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.behaviours import AnyBehaviour, BadScript, script_of
from keymux.sandbox.record import Records
from keymux.sandbox.scripts import Scripts


class Rule(Struct, frozen=True):
    """A script for a key or a dialect.

    Attributes:
        who: an upstream key, or the name of a dialect.
        script: behaviours as objects, or as lines of text such as ``throttled@7+ok``.
        on: the endpoint it is for, None for all.
    """

    who: str
    script: list[str | AnyBehaviour]
    on: Endpoint | None = None


class Standing(Struct, frozen=True):
    """How things stand.

    Attributes:
        connections: that are open, those of the control API left out.
        accepted: connections since the start, again without those.
        changes: how often anything changed since the start.
    """

    connections: int
    accepted: int
    changes: int


class Control:
    """Answers requests below ``/_sandbox/``.

    Args:
        scripts: can be set.
        records: can be read.
        standing: how things stand.
    """

    def __init__(
        self, scripts: Scripts, records: Records, standing: Callable[[], Standing]
    ) -> None:
        self._scripts = scripts
        self._records = records
        self._standing = standing

    async def answer(self, asked: Asked) -> Answer:
        """Do what is asked; errors are told in plain words."""
        path, _, query = asked.target.partition("?")
        try:
            match asked.method, path:
                case "GET", "/_sandbox/seen":
                    return _json(list(self._records.since(int(_figure(query, "since")))))
                case "GET", "/_sandbox/status":
                    return _json(await self._status_after(query))
                case "PUT", "/_sandbox/behaviours":
                    return _json(self._behave(asked.body))
                case "POST", "/_sandbox/reset":
                    self._scripts.clear()
                    self._records.clear()
                    return _json({})
        except (BadScript, ValueError) as error:
            return _json({"error": str(error)}, 400)
        return _json({"error": f"no {asked.method} {path} here"}, 404)

    async def _status_after(self, query: str) -> Standing:
        """How things stand, at once or as soon as something has changed."""
        after, within_s = int(_figure(query, "after")), float(_figure(query, "within_s"))
        with suppress(TimeoutError):
            await self._records.until(lambda: self._records.changes > after, within_s)
        return self._standing()

    def _behave(self, body: bytes) -> dict[str, int]:
        rules = msgspec.json.decode(body, type=list[Rule])
        scripts = [(rule, spelled_out(rule.script)) for rule in rules]
        for rule, script in scripts:
            self._scripts.set(rule.who, script, rule.on)
        return {"set": len(scripts)}


def spelled_out(script: Sequence[str | Behaviour]) -> list[Behaviour]:
    """A script with its lines of text read."""
    behaviours: list[Behaviour] = []
    for item in script:
        behaviours.extend(script_of(item) if isinstance(item, str) else (item,))
    return behaviours


def _figure(query: str, name: str) -> str:
    return parse_qs(query).get(name, ["0"])[0]


def _json(content: object, status: int = 200) -> Answer:
    return Answer(status, (("content-type", "application/json"),), (msgspec.json.encode(content),))
