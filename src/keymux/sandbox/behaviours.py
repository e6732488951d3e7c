"""All behaviours, and how they are written: in key names, in JSON, and in one line of text."""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from keymux.sandbox.behaviour import Behaviour, Ok
from keymux.sandbox.bending import (
    Crlf,
    Drip,
    Gzip,
    HeaderBomb,
    HugeEvent,
    LeaksKey,
    NoUsage,
    Slow,
)
from keymux.sandbox.breaking import (
    Cut,
    EmptyStream,
    ErrorMidStream,
    ExtraBytes,
    HangsUp,
    NoReply,
    OverloadedIn200,
    Raw,
    Silent,
    Stall,
    Truncated,
    TurnedAway,
)
from keymux.sandbox.refusing import (
    BadGateway,
    Banned,
    ContentRefused,
    ContextTooLong,
    Forbidden,
    GatewayTimeout,
    Html,
    ModelDenied,
    NoSuchModel,
    Overloaded,
    Redirect,
    Refused,
    Region,
    Rejected,
    Revoked,
    ServerError,
    SlowDown,
    Spent,
    Status,
    Throttled,
)

__all__ = [
    "BY_NAME",
    "KEY_PREFIX",
    "AnyBehaviour",
    "BadGateway",
    "BadScript",
    "Banned",
    "Behaviour",
    "ContentRefused",
    "ContextTooLong",
    "Crlf",
    "Cut",
    "Drip",
    "EmptyStream",
    "ErrorMidStream",
    "ExtraBytes",
    "Forbidden",
    "GatewayTimeout",
    "Gzip",
    "HangsUp",
    "HeaderBomb",
    "Html",
    "HugeEvent",
    "LeaksKey",
    "ModelDenied",
    "NoReply",
    "NoSuchModel",
    "NoUsage",
    "Ok",
    "Overloaded",
    "OverloadedIn200",
    "Raw",
    "Redirect",
    "Refused",
    "Region",
    "Rejected",
    "Revoked",
    "ServerError",
    "Silent",
    "Slow",
    "SlowDown",
    "Spent",
    "Stall",
    "Status",
    "Throttled",
    "Truncated",
    "TurnedAway",
    "catalogue",
    "script_of",
    "script_of_key",
]

KEY_PREFIX = "sk-sandbox-"
"""What every key begins with that the sandbox accepts without being told."""

AnyBehaviour = (
    Ok
    | Throttled
    | SlowDown
    | Spent
    | Revoked
    | Rejected
    | Banned
    | Forbidden
    | Region
    | NoSuchModel
    | ModelDenied
    | Refused
    | ContextTooLong
    | ContentRefused
    | Status
    | Overloaded
    | OverloadedIn200
    | ErrorMidStream
    | ServerError
    | BadGateway
    | GatewayTimeout
    | Redirect
    | Html
    | Cut
    | Stall
    | Truncated
    | EmptyStream
    | NoReply
    | TurnedAway
    | Silent
    | HangsUp
    | ExtraBytes
    | Slow
    | Drip
    | Crlf
    | HugeEvent
    | HeaderBomb
    | Gzip
    | LeaksKey
    | NoUsage
    | Raw
)

BY_NAME: Mapping[str, type[Behaviour]] = MappingProxyType(
    {behaviour.name(): behaviour for behaviour in get_args(AnyBehaviour)}
)
"""Every behaviour, in the order of the documentation."""

# Longer names first, so that `slow-down` is not read as `slow`.
_NAMES = "|".join(sorted(BY_NAME, key=len, reverse=True))
_ONE = re.compile(rf"({_NAMES})((?:@[^@+-]*)*)(?=[+-]|\Z)")


class BadScript(Exception):  # noqa: N818 -- it names what came, as the faults do
    """A text that names no behaviour, or figures that it does not have; it says which."""


def script_of(text: str) -> tuple[Behaviour, ...]:
    """The behaviours that a text such as ``throttled@7+ok`` names.

    A name may be followed by figures: ``@7`` sets the first one, ``@retry_after=7`` one by name.
    """
    script, end = _read(text)
    if end != len(text) or not script:
        raise BadScript(f"'{text}' names no behaviour; known are {', '.join(BY_NAME)}.")
    return script


def script_of_key(key: str) -> tuple[Behaviour, ...]:
    """The behaviours that a key's own name asks for; `Ok` when it asks for none."""
    return _read(key.removeprefix(KEY_PREFIX))[0] or (Ok(),)


class Entry(Struct, frozen=True):
    """A behaviour as people read of it.

    Attributes:
        name: in keys and scripts.
        figures: each with its default and, where it is a choice, the other ones.
        says: what it does.
    """

    name: str
    figures: tuple[str, ...]
    says: str


def catalogue() -> Iterator[Entry]:
    """Every behaviour, in the order of the documentation."""
    for name, kind in BY_NAME.items():
        figures = tuple(_figure(field) for field in msgspec.structs.fields(kind))
        yield Entry(name, figures, (kind.__doc__ or "").partition("\n")[0])


def _figure(field: msgspec.structs.FieldInfo) -> str:
    default = "null" if field.default is None else msgspec.to_builtins(field.default)
    others = [str(choice) for choice in _choices(field.type) if choice != field.default]
    told = f"{field.name}={default}"
    return f"{told} (or {', '.join(filter(None, others))})" if others else told


def _choices(kind: object) -> tuple[object, ...]:
    """The values of a closed set, which may be an optional one."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(kind)
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _read(text: str) -> tuple[tuple[Behaviour, ...], int]:
    """Behaviours from the start of a text, and where they end."""
    script: list[Behaviour] = []
    at = 0
    while found := _ONE.match(text, at):
        script.append(_made(found[1], found[2]))
        at = found.end()
        if text[at : at + 1] != "+":
            break
        at += 1
    return tuple(script), at


def _made(name: str, figures: str) -> Behaviour:
    kind = BY_NAME[name]
    given: dict[str, object] = {"behaviour": name}
    for figure in figures.split("@")[1:]:
        field, equals, value = figure.partition("=")
        if not equals:
            field, value = next(iter(kind.__struct_fields__), ""), figure
        if field not in kind.__struct_fields__:
            raise BadScript(f"The behaviour '{name}' has no figure '{field or figure}'.")
        given[field] = value
    try:
        made: Behaviour = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadScript(f"The behaviour '{name}' cannot have '{figures}': {error}") from None
    return made
