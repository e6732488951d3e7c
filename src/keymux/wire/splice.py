"""Change single values of a JSON object and leave every other byte as it came.

Signatures of thinking blocks and the provider's prompt cache depend on the exact text of a
request, so a body is never parsed and written again. Only fields at the top level count: a tool
input may well contain a field of the same name.
"""

import re
from collections.abc import Iterator

import msgspec

# Possessive, because a body may hold one string of thirty megabytes: a group that can be given
# back costs a hundred times the memory of what it matched.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_KEY = re.compile(rb"[ \t\r\n,]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_AFTER_VALUE = re.compile(rb"[ \t\r\n]*+[,}]")
_SCALAR = re.compile(_STRING + rb"|[^,}\]\s]*+")
_STRING_VALUE = re.compile(rb'[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+")')
_BRACKET = re.compile(_STRING + rb"|[\[{\]}]")
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")

_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_string = msgspec.json.Decoder(str).decode


class Field(msgspec.Struct, frozen=True):
    """Where the value of a top-level field stands: ``body[start:end]``."""

    name: str
    start: int
    end: int


def fields(body: bytes) -> tuple[Field, ...]:
    """Every top-level field of a JSON object in the order they stand, duplicates included.

    Args:
        body: valid JSON, an object at the top.
    """
    try:
        values = _read_object(body)
    except ValueError:
        return tuple(_scan(body))  # a name that is no text, such as half a surrogate pair
    found: list[Field] = []
    position = body.index(b"{") + 1
    while key := _KEY.match(body, position):
        name = _name(key[1])
        value = bytes(values[name])
        position = key.end() + len(value)
        if not body.startswith(value, key.end()) or not _AFTER_VALUE.match(body, position):
            return tuple(_scan(body))  # a duplicate: the decoder kept only the last
        found.append(Field(name, key.end(), position))
    return tuple(found)


def _name(literal: bytes) -> str:
    if b"\\" in literal:
        try:
            return _read_string(literal)
        except ValueError:
            pass
    return literal[1:-1].decode(errors="replace")


def _scan(body: bytes) -> Iterator[Field]:
    """The same, token by token: slower, and needs no decoder to agree."""
    position = body.index(b"{") + 1
    while key := _KEY.match(body, position):
        position = _value_end(body, key.end())
        yield Field(_name(key[1]), key.end(), position)


def _value_end(body: bytes, start: int) -> int:
    if body[start] not in b"[{":
        scalar = _SCALAR.match(body, start)
        return scalar.end() if scalar else start
    depth = 0
    for token in _BRACKET.finditer(body, start):
        opener = token[0][0]
        depth += (opener in b"[{") - (opener in b"]}")
        if depth == 0:
            return token.end()
    return len(body)


def may_repeat(body: bytes, name: str) -> bool:
    """Whether a body may hold a field more than once, or spelled with escapes."""
    if body.count(b'"%s"' % name.encode()) > 1:
        return True
    return b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None


def with_string(body: bytes, name: str, value: bytes) -> bytes:
    """The body with another value for a field that is known to be a string at the top level.

    Every field of the name is changed, because servers disagree on which of two duplicates
    counts. Nearly every body holds the quoted name once and no escape that could spell it
    differently: then that is the field. Anything else is read in full.

    Args:
        body: valid JSON, an object at the top, in which a decoder has seen the field.
        name: of the field; plain letters.
        value: the new value as JSON.
    """
    literal = b'"%s"' % name.encode()
    if may_repeat(body, name):
        return with_field(body, name, value)
    found = _STRING_VALUE.match(body, body.index(literal) + len(literal))
    if found is None:
        return with_field(body, name, value)
    start, end = found.span(1)
    return b"".join((body[:start], value, body[end:]))


def with_field(body: bytes, name: str, value: bytes) -> bytes:
    """The body with another value for a top-level field, which is added in front if missing.

    Args:
        body: valid JSON, an object at the top.
        name: of the field; plain letters.
        value: the new value as JSON.
    """
    parts: list[bytes] = []
    position = 0
    for field in fields(body):
        if field.name == name:
            parts += (body[position : field.start], value)
            position = field.end
    if not parts:
        return _added(body, name, value)
    return b"".join((*parts, body[position:]))


def _added(body: bytes, name: str, value: bytes) -> bytes:
    opening = body.index(b"{") + 1
    rest = body[opening:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return b'%s"%s":%s%s%s' % (body[:opening], name.encode(), value, comma, rest)
