"""Find the record an operator means by an id, the beginning of one, or a secret's last letters."""

from collections.abc import Sequence

from msgspec import Struct

from keymux.cli.arguments import mention, mention_name
from keymux.cli.saying import fail
from keymux.core.egress import ProxyRecord
from keymux.core.records import BackupKeyRecord, ClientKeyRecord, KeyRecord
from keymux.core.secrets import shown

_TAIL = 4
_NAMED = 10


class Candidate(Struct, frozen=True):
    """A record that may be meant.

    Attributes:
        id: of the record.
        shown: the ends of its secret.
        tail: the last four characters of the secret.
        label: the operator's name for it.
    """

    id: str
    shown: str
    tail: str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.id}  {self.shown}  {self.label}".rstrip()


def candidate(record: KeyRecord | BackupKeyRecord | ClientKeyRecord) -> Candidate:
    """What a record can be known by."""
    if isinstance(record, ClientKeyRecord):
        return Candidate(record.id, record.shown, record.shown[-_TAIL:], record.label)
    return Candidate(record.id, shown(record.secret), record.secret[-_TAIL:], record.label)


def pick(
    wanted: Sequence[str],
    records: Sequence[KeyRecord | BackupKeyRecord | ClientKeyRecord],
    *,
    what: str,
    command: str,
    of: str = "",
    by_label: bool = False,
) -> list[str]:
    """The ids of the records that are meant, each once; the program ends here if one is unclear.

    Args:
        wanted: as the operator wrote them.
        records: to choose from.
        what: they are, for messages.
        command: that lists them.
        of: the provider, if they belong to one.
        by_label: whether labels count, too.
    """
    candidates = [candidate(record) for record in records]
    found: dict[str, None] = {}
    problems: list[str] = []
    whose = f" of {of}" if of else ""
    for words in wanted:
        matches = matching(words, candidates, by_label=by_label)
        if len(matches) == 1:
            found[matches[0].id] = None
        elif matches:
            problems.append(
                f"{mention(words)} fits {len(matches)} {what}s{whose}; use one of these ids:"
            )
            problems += [f"  {match}" for match in matches[:_NAMED]]
        else:
            problems.append(f"no {what}{whose} fits {mention(words)}; `{command}` shows them")
    if problems:
        fail(*problems, "nothing was changed")
    return list(found)


def pick_keys(wanted: Sequence[str], records: Sequence[KeyRecord], provider: str) -> list[str]:
    """The ids of a provider's upstream keys that are meant; as `pick`."""
    command = f"keymux keys list {provider}"
    return pick(wanted, records, what="key", command=command, of=provider)


def pick_labelled(wanted: Sequence[str], records: Sequence[KeyRecord], provider: str) -> list[str]:
    """As `pick_keys`, by label too."""
    command = f"keymux keys list {provider}"
    return pick(wanted, records, what="key", command=command, of=provider, by_label=True)


def pick_proxies(wanted: Sequence[str], records: Sequence[ProxyRecord]) -> list[ProxyRecord]:
    """The egress proxies that are meant by name or id, each once; as `pick`."""
    by_word = {record.id: record for record in records} | {one.name: one for one in records}
    missing = [words for words in wanted if words not in by_word]
    if missing:
        problems = [f"no egress proxy is called {mention_name(words)}" for words in missing]
        fail(*problems, "`keymux proxies list` shows them; nothing was changed")
    return list({by_word[words].id: by_word[words] for words in wanted}.values())


def matching(
    words: str, candidates: Sequence[Candidate], *, by_label: bool = False
) -> list[Candidate]:
    """The candidates that some words fit: an id decides, then beginnings and ends count alike."""
    exact = [one for one in candidates if one.id == words]
    if exact or not words:
        return exact
    return [
        one
        for one in candidates
        if one.id.startswith(words)
        or words in {one.tail, one.shown.replace("***", "")}
        or (by_label and one.label == words)
    ]
