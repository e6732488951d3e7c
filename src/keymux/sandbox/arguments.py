"""Arguments for a pretended tool call: the smallest value that a JSON Schema allows."""

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from types import MappingProxyType

from keymux.sandbox import loose

_DEEPEST = 16
_LISTS_FILLED_DOWN_TO = 4
_WORD = "sandbox"
_NUMBER = 7
_LIMITS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {
        "minimum": ge,
        "maximum": le,
        "exclusiveMinimum": gt,
        "exclusiveMaximum": lt,
    }
)


def arguments_for(schema: Mapping[str, object], marker: str = "") -> dict[str, object]:
    """Arguments with every required field, and no other, in the order of the schema.

    Args:
        schema: of the arguments, as the request gives it.
        marker: taken as the text of strings that may be anything, so that mixed-up answers show.
    """
    value = _Example(schema, marker or _WORD).of(schema, 0)
    return value if isinstance(value, dict) else {}


class _Example:
    def __init__(self, root: Mapping[str, object], word: str) -> None:
        self._root = root
        self._word = word

    def of(self, given: object, depth: int) -> object:
        schema = self._resolved(loose.mapping(given))
        if depth > _DEEPEST:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        for name in ("enum", "examples"):
            if values := loose.items(schema.get(name)):
                return values[0]
        for name in ("anyOf", "oneOf", "allOf"):
            if choices := loose.items(schema.get(name)):
                return self.of(choices[0], depth + 1)
        return self._typed(schema, depth)

    def _resolved(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        for _ in range(_DEEPEST):
            path = loose.text(schema.get("$ref"))
            if not path.startswith("#"):
                break
            schema = self._root
            for step in path.split("/")[1:]:
                schema = loose.mapping(schema.get(step))
        return schema

    def _typed(self, schema: Mapping[str, object], depth: int) -> object:
        several = loose.items(schema.get("type")) or [schema.get("type")]
        named = next((loose.text(kind) for kind in several if kind != "null"), "null")
        if not named:
            named = "object" if "properties" in schema else "string"
        makers: dict[str, Callable[[Mapping[str, object], int], object]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": _number,
            "number": _number,
            "boolean": lambda _schema, _depth: True,
        }
        return makers[named](schema, depth) if named in makers else None

    def _object(self, schema: Mapping[str, object], depth: int) -> object:
        properties = loose.mapping(schema.get("properties"))
        names = map(loose.text, loose.items(schema.get("required")))
        return {name: self.of(properties.get(name), depth + 1) for name in names}

    def _array(self, schema: Mapping[str, object], depth: int) -> object:
        least = loose.whole(schema.get("minItems"))
        length = (1 if depth < _LISTS_FILLED_DOWN_TO else 0) if least is None else least
        return [self.of(schema.get("items"), depth + 1) for _ in range(length)]

    def _string(self, schema: Mapping[str, object], _depth: int) -> object:
        least = loose.whole(schema.get("minLength")) or 0
        most = loose.whole(schema.get("maxLength"))
        return self._word.ljust(least, "x")[:most]


def _number(schema: Mapping[str, object], _depth: int) -> object:
    """The first of a few numbers that keeps every limit."""
    low = loose.number(schema.get("minimum", schema.get("exclusiveMinimum")))
    high = loose.number(schema.get("maximum", schema.get("exclusiveMaximum")))
    tried: list[int | float] = [_NUMBER]
    tried += [] if low is None else [low, low + 1]
    tried += [] if high is None else [high, high - 1]
    tried += [] if low is None or high is None else [(low + high) / 2]
    return next((value for value in tried if _is_allowed(value, schema)), _NUMBER)


def _is_allowed(value: float, schema: Mapping[str, object]) -> bool:
    limits = {name: loose.number(schema.get(name)) for name in _LIMITS}
    return all(limit is None or _LIMITS[name](value, limit) for name, limit in limits.items())
