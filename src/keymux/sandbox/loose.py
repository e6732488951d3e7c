"""Read JSON that a client wrote: each look gives the type that was hoped for, or nothing."""

from collections.abc import Mapping, Sequence

import msgspec

from keymux.wire.surrogates import tolerant

_NOTHING: Mapping[str, object] = {}


def mapping(value: object) -> Mapping[str, object]:
    """An object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def items(value: object) -> Sequence[object]:
    """An array, else an empty one."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """A string, else an empty one."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """A whole number, else None; true and false are none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> int | float | None:
    """A number, else None; true and false are none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_decode = tolerant(msgspec.json.Decoder().decode)


def decode(body: bytes) -> object:
    """The JSON of a body, None when it is none."""
    try:
        found: object = _decode(body)
    except (ValueError, RecursionError):
        return None
    return found
