"""Check the egress proxies that an operator hands over, before anything is stored.

Nothing here touches a file or the store, and `read` never raises: whatever is wrong becomes a
`Problem` that says where, and nothing of what stands there.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from keymux.cli.intake import Problem
from keymux.cli.layout import LINE_END, Unreadable, csv_rows, delimiter_of, text_of
from keymux.core.egress import ProxyAddress, ProxyType
from keymux.core.proxy_text import check_name, proxy_of, read_proxy, type_of
from keymux.stores.egress import identity

COLUMNS = ("name", "type", "host", "port", "username", "password")
_FIELDS: Mapping[str, str] = MappingProxyType(
    {**{name: name for name in COLUMNS}, "user": "username", "pass": "password"}
)
_MAY_BEGIN_WITH_A_MARK = frozenset({"username", "password"})


class ProxyEntry(Struct, frozen=True):
    """A proxy that may be stored.

    Attributes:
        where: its line.
        address: with the credentials.
        name: empty when none was given.
    """

    where: str
    address: ProxyAddress
    name: str = ""


class ProxyIntake(Struct, frozen=True):
    """Everything that was handed over.

    Attributes:
        entries: each proxy once.
        problems: with what cannot be stored.
        repeated: where a proxy stands once more, and where it stood first.
        ignored: how many columns were left aside; a header could be no header, so no names.
    """

    entries: tuple[ProxyEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    repeated: tuple[tuple[str, str], ...] = ()
    ignored: int = 0


def read(data: bytes, plain_type: ProxyType = ProxyType.HTTP) -> ProxyIntake:
    """What some bytes hold: URLs and lines, or CSV with a header.

    Args:
        data: all of them.
        plain_type: what a proxy speaks where its line does not say.
    """
    reading = _Reading(plain_type)
    try:
        reading.take_all(text_of(data))
    except Unreadable as error:
        reading.problems.append(Problem(error.where, str(error)))
    return ProxyIntake(
        entries=tuple(reading.entries),
        problems=tuple(reading.problems),
        repeated=tuple(reading.repeated),
        ignored=reading.ignored,
    )


class _Reading:
    """What was read so far."""

    def __init__(self, plain_type: ProxyType) -> None:
        self._plain_type = plain_type
        self.entries: list[ProxyEntry] = []
        self.problems: list[Problem] = []
        self.repeated: list[tuple[str, str]] = []
        self.ignored = 0
        self._first: dict[tuple[str, str, int, str], ProxyEntry] = {}
        self._names: dict[str, str] = {}

    def take_all(self, text: str) -> None:
        """All of a text, in whichever layout it has."""
        lines = LINE_END.split(text)
        first = next((line for line in lines if not _is_passed_over(line)), "")
        delimiter = delimiter_of(first)
        fields = [field.strip(' \t"').lower() for field in first.split(delimiter)]
        if "host" in fields:
            self._take_table(text, delimiter)
            return
        for number, line in enumerate(lines, 1):
            if not _is_passed_over(line):
                self._take_line(f"line {number}", line.strip(" \t"))

    def _take_line(self, where: str, line: str) -> None:
        try:
            self._take(ProxyEntry(where, read_proxy(line, self._plain_type)))
        except ValueError as error:
            self.problems.append(Problem(where, str(error)))

    def _take_table(self, text: str, delimiter: str) -> None:
        header: Sequence[str] | None = None
        for where, cells in csv_rows(text, delimiter):
            is_remark = cells[0].startswith("#")
            if header is None:
                if not is_remark:
                    header = self._header(where, cells)
            elif not (is_remark and header[0] not in _MAY_BEGIN_WITH_A_MARK):
                self._take_row(where, header, cells)

    def _header(self, where: str, cells: Sequence[str]) -> Sequence[str]:
        header = [_FIELDS.get(cell.lower(), f"ignored {cell}") for cell in cells]
        self.ignored = sum(field not in COLUMNS for field in header)
        if len(set(header)) < len(header):
            raise Unreadable(where, "names a column twice")
        return header

    def _take_row(self, where: str, header: Sequence[str], cells: Sequence[str]) -> None:
        if len(cells) != len(header):
            why = f"has {len(cells)} fields, the header has {len(header)}"
            self.problems.append(Problem(where, why))
            return
        try:
            entry = self._entry(where, dict(zip(header, cells, strict=True)))
            self._take(entry)
        except ValueError as error:
            self.problems.append(Problem(where, str(error)))

    def _entry(self, where: str, row: Mapping[str, str]) -> ProxyEntry:
        kind = type_of(row["type"]) if row.get("type") else self._plain_type
        name = row.get("name", "")
        if name:
            check_name(name)
        address = proxy_of(
            kind,
            row["host"],
            row.get("port", ""),
            row.get("username", ""),
            row.get("password", ""),
        )
        return ProxyEntry(where, address, name)

    def _take(self, entry: ProxyEntry) -> None:
        first = self._first.setdefault(identity(entry.address), entry)
        if first is not entry:
            for why in _differences(entry, first):
                raise ValueError(why)
            self.repeated.append((entry.where, first.where))
            return
        if entry.name and self._names.setdefault(entry.name, entry.where) != entry.where:
            raise ValueError(f"has the name of {self._names[entry.name]}; a name belongs to one")
        self.entries.append(entry)


def _is_passed_over(line: str) -> bool:
    written = line.strip(" \t")
    return not written or written.startswith("#")


def _differences(entry: ProxyEntry, first: ProxyEntry) -> Iterator[str]:
    if entry.address.password != first.address.password:
        yield f"has the address and user of {first.where} and another password"
    if entry.name != first.name:
        yield f"has the address and user of {first.where} and another name"
