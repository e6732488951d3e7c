"""Check the upstream keys that an operator hands over, before anything is stored.

Nothing here touches a file or the store, and `read` never raises: whatever is wrong becomes a
`Problem` that says where, and never more of a secret than its ends.
"""

import re
from collections.abc import Iterator
from unicodedata import category, name

from msgspec import Struct

from keymux.cli.layout import Draft, Unreadable, drafts, text_of
from keymux.core.secrets import hash_of, shown

_SHORTEST, _LONGEST = 8, 4096
_LONGEST_WORDS = 200
_NEVER_IN_A_KEY = frozenset("\"'`,;\\<>{}[]()")
_SOUND = re.compile(r"[A-Za-z0-9_.:/+=~|@!#$%^&*?-]{8,4096}")


class Entry(Struct, frozen=True):
    """An upstream key that may be stored.

    Attributes:
        where: its line or JSON path.
        secret: never shown.
        hash: of the secret.
        label: the operator's name for it.
        group: quota group, empty for one of its own.
    """

    where: str
    secret: str
    hash: str
    label: str = ""
    group: str = ""

    @property
    def id(self) -> str:
        """The id it gets in the store; the same secret has the same id everywhere."""
        return f"key_{self.hash[:12]}"

    def __repr__(self) -> str:
        return f"<Entry {self.where}>"


class Problem(Struct, frozen=True):
    """Why an entry cannot be stored.

    Attributes:
        where: its line or JSON path; empty for the whole.
        why: continues a sentence that begins with where.
        shown: the ends of the secret.
    """

    where: str
    why: str
    shown: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{f'{self.shown} ' if self.shown else ''}{self.why}"


class Intake(Struct, frozen=True):
    """Everything that was handed over.

    Attributes:
        keys: for the pool.
        backups: to spare.
        problems: with what cannot be stored.
        repeated: entries that stand there twice, each with where it stood first.
        ignored: names of fields that were left aside.
    """

    keys: tuple[Entry, ...] = ()
    backups: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()
    repeated: tuple[tuple[Entry, str], ...] = ()
    ignored: tuple[str, ...] = ()


def read(data: bytes, *, file_name: str = "") -> Intake:
    """What some bytes hold.

    Args:
        data: all of them.
        file_name: where they come from, for its ending.
    """
    reading = _Reading()
    try:
        for draft in drafts(text_of(data), file_name.lower()):
            if isinstance(draft, Unreadable):
                reading.problems.append(Problem(draft.where, str(draft)))
            else:
                reading.take(draft)
    except Unreadable as error:
        reading.problems.append(Problem(error.where, str(error)))
    return Intake(
        keys=tuple(reading.keys),
        backups=tuple(reading.backups),
        problems=tuple(reading.problems),
        repeated=tuple(reading.repeated),
        ignored=tuple(reading.ignored),
    )


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self.keys: list[Entry] = []
        self.backups: list[Entry] = []
        self.problems: list[Problem] = []
        self.repeated: list[tuple[Entry, str]] = []
        self.ignored: dict[str, None] = {}
        self._first: dict[str, tuple[str, bool]] = {}

    def take(self, draft: Draft) -> None:
        """Check one entry and put it where it belongs."""
        self.ignored.update(dict.fromkeys(draft.ignored))
        why = next(_objections(draft), "")
        if why:
            ends = shown(draft.secret) if isinstance(draft.secret, str) and draft.secret else ""
            self.problems.append(Problem(draft.where, why, ends))
            return
        secret = str(draft.secret)
        entry = Entry(draft.where, secret, hash_of(secret), str(draft.label), str(draft.group))
        where, was_backup = self._first.setdefault(entry.hash, (draft.where, draft.is_backup))
        if was_backup != draft.is_backup:
            why = f"is a key at {where} already; it cannot be its own backup"
            self.problems.append(Problem(draft.where, why, shown(secret)))
        elif where != draft.where:
            self.repeated.append((entry, where))
        else:
            (self.backups if draft.is_backup else self.keys).append(entry)


def _objections(draft: Draft) -> Iterator[str]:
    if draft.secret is None:
        yield "has no apiKey"
    elif not isinstance(draft.secret, str):
        yield f"is {_kind(draft.secret)} where a key should be"
    else:
        yield from key_objections(draft.secret)
    for what, words in (("label", draft.label), ("group", draft.group)):
        if not isinstance(words, str):
            yield f"has {_kind(words)} as {what}"
        else:
            yield from word_objections(what, words)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "nothing"


def key_objections(secret: str) -> Iterator[str]:
    """What keeps a text from being an upstream key."""
    if _SOUND.fullmatch(secret):
        return
    if not secret:
        yield "is empty"
    for place, letter in enumerate(secret, 1):
        if letter in _NEVER_IN_A_KEY or not "!" <= letter <= "~":
            yield _letter_objection(letter, place)
    if len(secret) < _SHORTEST:
        yield f"is too short to be a key: {len(secret)} characters"
    elif len(secret) > _LONGEST:
        yield f"is too long to be a key: {len(secret)} characters"


def _letter_objection(letter: str, place: int) -> str:
    if letter == " ":
        return f"holds a space at position {place}: give one key a line and nothing else"
    if letter in _NEVER_IN_A_KEY:
        return f"holds {letter} at position {place}: give the bare key, without quotes or commas"
    return f"holds {_name(letter)} at position {place}: a key is plain visible ASCII"


def word_objections(what: str, words: str) -> Iterator[str]:
    """What keeps a text from being a label or the name of a group."""
    if len(words) > _LONGEST_WORDS:
        yield f"has a {what} of {len(words)} characters; {_LONGEST_WORDS} are enough"
    unsafe = next((letter for letter in words if category(letter)[0] == "C"), "")
    if unsafe:
        yield f"has {_name(unsafe)} in its {what}"


def _name(letter: str) -> str:
    return f"U+{ord(letter):04X} {name(letter, 'CONTROL CHARACTER')}"
