"""How a provider says that something is the matter, and why it is believed."""

import re
from re import Pattern

from msgspec import Struct

from keymux.core.faults import UpstreamFault
from keymux.wire.upstream_error import Complaint


class Sign(Struct, frozen=True):
    """One way a provider says that something is the matter.

    A sign is met when everything it names is met. ``words`` are looked for in the message; they do
    not count when the client's own request holds them, because messages quote requests, and a
    client must not be able to talk a key into quarantine.

    Attributes:
        fault: what it means.
        statuses: HTTP statuses; empty for any.
        names: of the error's type or code, lower case; empty for any.
        words: of its message; the group ``said`` is what must not come from the request.
    """

    fault: type[UpstreamFault]
    statuses: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    words: Pattern[str] | None = None

    def is_met(self, complaint: Complaint, request: bytes) -> bool:
        """Whether a complaint about a request bears this sign."""
        if self.statuses and complaint.status not in self.statuses:
            return False
        if self.names and not ({complaint.type, complaint.code} & self.names):
            return False
        if self.words is None:
            return True
        found = self.words.search(complaint.message)
        return found is not None and not _holds(request, found["said"])


# All but visible ASCII, and the backslashes that JSON puts before quotes.
_PASSED_OVER = bytes(sorted({*range(256)} - {*range(ord("!"), ord("~") + 1)} | {ord("\\")}))
_NESTED_WHITE = (rb"\\n", rb"\\r", rb"\\t")


def _holds(request: bytes, said: str) -> bool:
    """Whether a request holds some words, however it spells them.

    The request may be large and the client hostile, so this takes a few fast passes.
    """
    text = request
    for white in _NESTED_WHITE:
        text = text.replace(white, b"")
    text = text.replace(b"\\\\", b"").replace(rb"\/", b"/")
    return _bare(said) in _bare(text.decode("unicode_escape", "ignore"))


def _bare(text: str) -> bytes:
    """Text without spaces, in small letters."""
    plain = text.encode("ascii", "ignore").lower()
    for white in _NESTED_WHITE:
        plain = plain.replace(white[1:], b"")
    return plain.translate(None, _PASSED_OVER)


# What may stand before the first words of a provider itself: LiteLLM puts the name of its exception
# there, and at times the whole JSON of the vendor behind it.
_BEFORE = (
    r"\A(?:litellm\.\w+: )?(?:\w+ ?Exception ?- ?)?(?:b?'?\{.{0,120}?\"message\": ?\")?"
    r"(?:authentication error, ?)?"
)


def sign(
    fault: type[UpstreamFault],
    *names: str,
    statuses: tuple[int, ...] = (),
    words: str = "",
    first_words: str = "",
) -> Sign:
    """A `Sign`, with the words as a regular expression that ignores case.

    Args:
        fault: what it means.
        names: of the error's type or code.
        statuses: HTTP statuses.
        words: anywhere in the message. Not for 400: there messages name fields and values of the
            request, and words of theirs and of the client's may meet.
        first_words: the message begins with them.
    """
    pattern = f"{_BEFORE}(?P<said>{first_words})" if first_words else f"(?P<said>{words})"
    return Sign(
        fault=fault,
        statuses=frozenset(statuses),
        names=frozenset(names),
        words=re.compile(pattern, re.IGNORECASE) if words or first_words else None,
    )
