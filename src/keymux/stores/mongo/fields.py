"""Fields of documents, read with patience: other programs have written some of them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidId

Document = Mapping[str, Any]

_SECONDS_UNTIL = 10**11
"""A number below is in seconds: as milliseconds it would be before 1973."""


class WrongField(Exception):  # noqa: N818 -- names what was found
    """A field holds what it never should.

    Attributes:
        name: of the field; its value may be a secret and is never told.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def text(document: Document, name: str) -> str:
    """A text; empty when it is missing."""
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise WrongField(name)
    return value


def texts(document: Document, name: str) -> tuple[str, ...]:
    """A list of texts; empty when it is missing."""
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise WrongField(name)
    return tuple(value)


def number(document: Document, name: str) -> int:
    """A whole number; 0 when it is missing."""
    return optional_number(document, name) or 0


def optional_number(document: Document, name: str) -> int | None:
    """A whole number, or None; MongoDB's shells write whole numbers as doubles."""
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, Decimal128):
        value = float(value.to_decimal())
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise WrongField(name)
    return int(value)


def flag(document: Document, name: str) -> bool:
    """Yes or no; no when it is missing."""
    value = document.get(name)
    if value is None:
        return False
    if not isinstance(value, bool | int | float):
        raise WrongField(name)
    return bool(value)


def moment(document: Document, name: str) -> int | None:
    """Milliseconds since 1970, from a date, a number or a text in ISO 8601.

    None when it is missing, or before 1970: some languages write the year 1 for no date at all.
    """
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, DatetimeMS):
        found: float = int(value)
    elif isinstance(value, str):
        found = _from_text(name, value)
    else:
        found = number(document, name)
        if found < _SECONDS_UNTIL:
            found *= 1000
    return int(found) if found > 0 else None


def _from_text(name: str, value: str) -> float:
    if not value:
        return 0
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        raise WrongField(name) from None
    aware = read if read.tzinfo else read.replace(tzinfo=UTC)
    return aware.timestamp() * 1000


def date(milliseconds: int | None) -> DatetimeMS | None:
    """A moment as MongoDB keeps it."""
    return None if milliseconds is None else DatetimeMS(milliseconds)


def name_of(document: Document, name: str = "_id") -> str:
    """The id of a document, or one that a field refers to; empty when it is missing."""
    value = document.get(name)
    return str(value) if isinstance(value, ObjectId) else text(document, name)


def named(name: str, field: str = "_id") -> dict[str, Any]:
    """What finds a document by its id, which is a text or one of MongoDB's own."""
    found = _spellings(name)
    return {field: found[0] if len(found) == 1 else {"$in": found}}


def any_named(names: Iterable[str], field: str = "_id") -> dict[str, Any]:
    """What finds documents by their ids."""
    return {field: {"$in": [one for name in names for one in _spellings(name)]}}


def _spellings(name: str) -> list[str | ObjectId]:
    try:
        return [name, ObjectId(name)]
    except InvalidId:
        return [name]
