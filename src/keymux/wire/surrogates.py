r"""Half surrogate pairs: escapes such as ``\ud800`` with no other half beside them.

JSON's grammar allows them, programs that cut text between two UTF-16 units write them, and most
servers take them. The decoder here does not, not even in fields that are skipped. What it cannot
read is therefore read once more from a copy in which each half is a replacement character of the
same length; the bytes that travel on are never touched.
"""

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|[c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB]..\\u[dD]...))"
)
_NO_TEXT = b"\xff"


def tolerant(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """A decoder that reads what another does, and what it refuses for half a pair alone."""

    def read_anyway(text: bytes) -> T:
        try:
            return read(text)
        except ValueError:
            whole = without_halves(text)
        return read(whole)

    return read_anyway


def without_halves(text: bytes) -> bytes:
    """JSON of the same length without half pairs; whole pairs stay."""
    if _NO_TEXT in text or (b"\\ud" not in text and b"\\uD" not in text):
        return text
    # Once escaped backslashes are out of the way, a backslash that is left begins an escape.
    plain = text.replace(b"\\\\", _NO_TEXT * 2)
    return _HALF.sub(rb"\\ufffd", plain).replace(_NO_TEXT * 2, b"\\\\")
