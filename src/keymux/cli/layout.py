"""The three layouts in which upstream keys are handed over: lines, JSON and CSV."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

SECRET_FIELDS = ("apiKey", "key", "api_key")
LABEL_FIELDS = ("label", "name")
GROUP_FIELDS = ("group", "quotaGroup", "quota_group")
KEYS, BACKUPS = "keys", "backupKeys"

LINE_END = re.compile(r"\r\n|\r|\n")
_KNOWN = {field.lower() for field in (*SECRET_FIELDS, *LABEL_FIELDS, *GROUP_FIELDS)}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unreadable(Exception):  # noqa: N818 -- names the state, as the faults do
    """What was handed over has no layout that we know.

    Attributes:
        where: a line, a path, or empty for the whole.
    """

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(why)


class Draft(Struct, frozen=True):
    """One entry as it was written, nothing of it checked.

    Attributes:
        where: its line or JSON path.
        secret: a text, if it is right.
        label: the same.
        group: the same.
        is_backup: True for an entry among the backup keys.
        ignored: names of fields that mean nothing to us.
    """

    where: str
    secret: object
    label: object = ""
    group: object = ""
    is_backup: bool = False
    ignored: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Draft {self.where}>"


def text_of(data: bytes) -> str:
    """The text of some bytes.

    Raises:
        Unreadable: it is not UTF-8, nor UTF-16 with its mark.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line}", "is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise Unreadable("", "holds zero bytes, as UTF-16 without a mark does; save it as UTF-8")
    return text


def drafts(text: str, file_name: str) -> Iterator[Draft | Unreadable]:
    """The entries of a text in whichever layout it has.

    Args:
        text: all of it.
        file_name: its ending counts; empty when there is none.

    Returns:
        An `Unreadable` stands for one entry; the next ones may be sound.

    Raises:
        Unreadable: the text as a whole breaks the rules of its layout.
    """
    start = text.lstrip()[:1]
    if start in {"{", "["} or file_name.endswith(".json"):
        return _json_drafts(text)
    first = next((line for line in LINE_END.split(text) if line.strip()), "")
    delimiter = delimiter_of(first)
    fields = [field.strip(' "') for field in first.split(delimiter)]
    if any(field.lower() in _KNOWN for field in fields):
        return _csv_drafts(text, delimiter)
    if file_name.endswith(".csv"):
        raise Unreadable("line 1", "is no header; a CSV file begins with one, with a column apiKey")
    return _line_drafts(text)


# -- lines -----------------------------------------------------------------------------------------
def _line_drafts(text: str) -> Iterator[Draft]:
    for number, line in enumerate(LINE_END.split(text), 1):
        written = line.strip(" \t")
        if written and not written.startswith("#"):
            yield Draft(f"line {number}", written)


# -- CSV -------------------------------------------------------------------------------------------
def delimiter_of(header: str) -> str:
    """What stands between the fields of a CSV file."""
    return max(",;\t", key=header.count)


def _csv_drafts(text: str, delimiter: str) -> Iterator[Draft | Unreadable]:
    header: list[str] | None = None
    for where, cells in csv_rows(text, delimiter):
        if header is None:
            header = _header(where, cells)
        elif len(cells) != len(header):
            why = f"has {len(cells)} fields, the header has {len(header)}"
            yield Unreadable(where, why)
        else:
            yield _draft(where, dict(zip(header, cells, strict=True)), is_backup=False)


def csv_rows(text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of a CSV file that are not empty: where each stands, and its fields.

    Raises:
        Unreadable: it breaks the rules of CSV there.
    """
    reader = csv.reader(LINE_END.split(text), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            cells = [cell.strip(" \t") for cell in row]
            if any(cells):
                yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}", f"is no CSV: {error}") from None


def _header(where: str, cells: list[str]) -> list[str]:
    if len(set(cells)) < len(cells):
        raise Unreadable(where, "names a column twice")
    if not {cell.lower() for cell in cells} & {field.lower() for field in SECRET_FIELDS}:
        raise Unreadable(where, "has no column apiKey")
    return cells


# -- JSON ------------------------------------------------------------------------------------------
def _json_drafts(text: str) -> Iterator[Draft | Unreadable]:
    try:
        found: object = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _json_line_drafts(text)
            return
        where = f"line {error.lineno}"
        raise Unreadable(where, f"is not valid JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable("", f"is not valid JSON: {error}") from None
    yield from _found_drafts(found)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _json_line_drafts(text: str) -> Iterator[Draft | Unreadable]:
    """An object on each line, as database exports are written."""
    for number, line in enumerate(LINE_END.split(text), 1):
        if not line.strip():
            continue
        try:
            found: object = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError):
            yield Unreadable(f"line {number}", "is not a JSON object")
            continue
        yield from _item_drafts([found], f"line {number}", is_backup=False)


def _found_drafts(found: object) -> Iterator[Draft | Unreadable]:
    if isinstance(found, dict) and (KEYS in found or BACKUPS in found):
        ignored = tuple(name for name in found if name not in {KEYS, BACKUPS})
        for name in (KEYS, BACKUPS):
            items = found.get(name, [])
            if not isinstance(items, list):
                raise Unreadable(f"$.{name}", "is not a list")
            yield from _item_drafts(items, f"$.{name}", is_backup=name == BACKUPS)
        for name in ignored:
            yield Unreadable(f"$.{name}", f"means nothing here; there are {KEYS} and {BACKUPS}")
    elif isinstance(found, list):
        yield from _item_drafts(found, "$", is_backup=False)
    else:
        yield from _item_drafts([found], "", is_backup=False)


def _item_drafts(items: list[object], path: str, *, is_backup: bool) -> Iterator[Draft]:
    for index, item in enumerate(items):
        where = f"{path}[{index}]" if path.startswith("$") else path or "$"
        if isinstance(item, dict):
            yield _draft(where, item, is_backup=is_backup)
        else:
            yield Draft(where, item, is_backup=is_backup)


def _draft(where: str, found: Mapping[str, object], *, is_backup: bool) -> Draft:
    by_name = {name.lower(): value for name, value in found.items()}
    return Draft(
        where,
        _first(by_name, SECRET_FIELDS, None),
        _first(by_name, LABEL_FIELDS, ""),
        _first(by_name, GROUP_FIELDS, ""),
        is_backup,
        tuple(name for name in found if name.lower() not in _KNOWN),
    )


def _first(by_name: Mapping[str, object], names: tuple[str, ...], default: object) -> object:
    values = (by_name.get(name.lower()) for name in names)
    return next((value for value in values if value is not None), default)
