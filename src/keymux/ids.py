"""Names for new things: sortable by time, impossible to guess where that matters."""

import secrets
import string
import time
from random import Random

_ALPHABET = string.ascii_letters + string.digits
_CLIENT_KEY_LENGTH = 40


LAST_MOMENT = 16**12 - 1
"""The last millisecond that an id can name."""


def first_id_at(milliseconds: int) -> str:
    """The lowest request id of a moment: ids sort by time, so ranges of time are ranges of ids."""
    return f"req_{milliseconds:012x}"


class ExchangeIds:
    """Makes request ids: milliseconds since 1970, then 64 random bits, all hexadecimal.

    They are names and no secrets, so a fast generator does.
    """

    def __init__(self) -> None:
        self._bits = Random(secrets.randbits(128)).getrandbits  # noqa: S311 -- see above

    def next(self) -> str:
        """A new one."""
        return f"req_{time.time_ns() // 1_000_000:012x}{self._bits(64):016x}"


def record_id(prefix: str) -> str:
    """An id for a record of the store."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.randbits(32):08x}"


def client_key() -> str:
    """A new client key: ``km-`` and 40 random characters, 238 bits."""
    return "km-" + "".join(secrets.choice(_ALPHABET) for _ in range(_CLIENT_KEY_LENGTH))
