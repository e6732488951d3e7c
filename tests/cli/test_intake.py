"""What is read from the keys an operator hands over."""

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.cli.intake import Intake, read
from keymux.core.secrets import hash_of

ONE, TWO = "sk-one-0123456789", "sk-two-0123456789"


def secrets(intake: Intake) -> list[str]:
    """The secrets of the keys, in order."""
    return [entry.secret for entry in intake.keys]


def problems(text: str | bytes, file_name: str = "") -> list[str]:
    """What is wrong with some input, as operators read it."""
    data = text.encode() if isinstance(text, str) else text
    return [str(problem) for problem in read(data, file_name=file_name).problems]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{ONE}\n{TWO}\n", id="lines"),
        pytest.param(f"{ONE}\n{TWO}", id="no end of line at the end"),
        pytest.param(f"{ONE}\r\n{TWO}\r\n", id="lines of Windows"),
        pytest.param(f"{ONE}\r{TWO}\r", id="lines of old Macs"),
        pytest.param(f"# ours\n\n{ONE}\n  # theirs\n\n{TWO}\n", id="comments and empty lines"),
        pytest.param(f"  {ONE}\t\n\t{TWO}  \n", id="blanks around"),
        pytest.param(json.dumps([ONE, TWO]), id="a JSON list"),
        pytest.param(json.dumps([{"apiKey": ONE}, {"key": TWO}]), id="JSON objects"),
        pytest.param(json.dumps({"keys": [ONE, {"api_key": TWO}]}), id="a JSON object of lists"),
        pytest.param(f'\n\n [ "{ONE}",\n"{TWO}" ]\n', id="JSON with odd spacing"),
        pytest.param(f'{{"apiKey": "{ONE}"}}\n{{"apiKey": "{TWO}"}}\n', id="JSON lines"),
        pytest.param(f"apiKey\n{ONE}\n{TWO}\n", id="CSV of one column"),
        pytest.param(f"label,apiKey\na,{ONE}\nb,{TWO}\n", id="CSV"),
        pytest.param(f"label;Key\na;{ONE}\nb;{TWO}\n", id="CSV of a spreadsheet"),
        pytest.param(f'"label"\t"API_KEY"\n"a"\t"{ONE}"\n\n"b"\t"{TWO}"', id="quoted, with tabs"),
    ],
)
def test_every_layout_is_recognised(text: str) -> None:
    """The same keys come out of every layout, in order and without problems."""
    intake = read(text.encode())

    assert (secrets(intake), intake.problems) == ([ONE, TWO], ())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(codecs.BOM_UTF8 + ONE.encode(), id="UTF-8 with its mark"),
        pytest.param(ONE.encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param(codecs.BOM_UTF16_BE + ONE.encode("utf-16-be"), id="UTF-16, big end first"),
        pytest.param(codecs.BOM_UTF8 + json.dumps([ONE]).encode(), id="JSON with a mark"),
    ],
)
def test_marks_of_encodings_are_obeyed(data: bytes) -> None:
    """What editors of other systems save is read."""
    assert secrets(read(data)) == [ONE]


def test_labels_and_groups_come_along() -> None:
    """Objects and columns may say whose a key is and whose allowance it shares."""
    objects = json.dumps([{"apiKey": ONE, "label": "a", "quotaGroup": "g"}])
    columns = f"key,name,group\n{ONE},a,g\n"

    found = [read(text.encode()).keys[0] for text in (objects, columns)]

    assert [(entry.label, entry.group) for entry in found] == [("a", "g"), ("a", "g")]


def test_keys_and_backup_keys_are_told_apart() -> None:
    """An object with both lists gives both kinds."""
    intake = read(json.dumps({"keys": [ONE], "backupKeys": [TWO]}).encode())

    assert secrets(intake) == [ONE]
    assert [entry.secret for entry in intake.backups] == [TWO]


def test_ids_follow_from_the_secret() -> None:
    """The same secret has the same id everywhere: the beginning of its hash."""
    assert read(ONE.encode()).keys[0].id == f"key_{hash_of(ONE)[:12]}"


def test_fields_without_a_meaning_are_named() -> None:
    """A database export may be read; what was left aside is told, once."""
    export = f'{{"_id": 1, "apiKey": "{ONE}"}}\n{{"_id": 2, "apiKey": "{TWO}", "status": "x"}}'

    intake = read(export.encode())

    assert secrets(intake) == [ONE, TWO]
    assert intake.ignored == ("_id", "status")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param("sk-one 0123456789", "holds a space at position 7", id="a space"),
        pytest.param("sk-one\u00a00123456789", "U+00A0 NO-BREAK SPACE", id="a no-break space"),
        pytest.param("sk-one0123456789\u200b", "U+200B ZERO WIDTH SPACE", id="a hidden space"),
        pytest.param("sk-one\u30000123456", "U+3000 IDEOGRAPHIC SPACE", id="a wide space"),
        pytest.param("sk-one\u20280123456", "U+2028 LINE SEPARATOR", id="another line end"),
        pytest.param(
            "sk-\u0430bc0123456", "CYRILLIC SMALL LETTER A", id="a letter that looks alike"
        ),
        pytest.param("sk-one\ufeff0123456", "U+FEFF", id="a mark in the middle"),
        pytest.param("sk-one\x070123456", "U+0007 CONTROL CHARACTER", id="a bell"),
        pytest.param("sk-one\x1b[31m0123", "U+001B CONTROL CHARACTER", id="a colour"),
        pytest.param('"sk-one0123456789"', 'holds " at position 1', id="quotes"),
        pytest.param("sk-one0123456789,", "holds , at position 17", id="a comma"),
        pytest.param("sk-1", "too short to be a key: 4 characters", id="too short"),
        pytest.param("sk-" + "a" * 4094, "too long to be a key: 4097 characters", id="too long"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_the_reason(line: str, why: str) -> None:
    """An operator can find and mend a bad line without seeing the secret."""
    found = problems(f"{ONE}\n# second\n{line}\n")

    assert len(found) == 1
    assert found[0].startswith("line 3: ")
    assert why in found[0]


def test_a_problem_shows_only_the_ends_of_a_secret() -> None:
    """First 3 and last 4 characters, no more."""
    assert problems("sk-secretsecret secret1234") == [
        "line 1: sk-...1234 holds a space at position 16: give one key a line and nothing else"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('["sk-', "line 1: is not valid JSON", id="JSON that ends too early"),
        pytest.param(f'[\n"{ONE}",\n]', "line 3: is not valid JSON", id="a comma too many"),
        pytest.param("[" * 100_000, "is not valid JSON", id="JSON without a bottom"),
        pytest.param('{"keys": [], "keys": []}', "names a field twice", id="a field twice"),
        pytest.param('{"keys": "x"}', "$.keys: is not a list", id="no list of keys"),
        pytest.param('{"backupKeys": {}}', "$.backupKeys: is not a list", id="no list of spares"),
        pytest.param('{"keys": [], "kees": []}', "$.kees: means nothing", id="a misspelt list"),
        pytest.param("[null]", "$[0]: has no apiKey", id="nothing for a key"),
        pytest.param("[12345678]", "$[0]: is a number where", id="a number for a key"),
        pytest.param("[true]", "$[0]: is true or false where", id="a truth for a key"),
        pytest.param("[[]]", "$[0]: is a list where", id="a list for a key"),
        pytest.param('[{"label": "x"}]', "$[0]: has no apiKey", id="an object without a key"),
        pytest.param('[{"apiKey": {}}]', "$[0]: is an object where", id="an object for a key"),
        pytest.param('[{"apiKey": ""}]', "$[0]: is empty", id="an empty key"),
        pytest.param('{"keys": [""]}', "$.keys[0]: is empty", id="an empty key in a list"),
        pytest.param(f'[{{"key": "{ONE}", "label": 3}}]', "a number as label", id="a wrong label"),
        pytest.param(f'[{{"key": "{ONE}", "group": []}}]', "a list as group", id="a wrong group"),
        pytest.param(
            f'[{{"key": "{ONE}", "label": "a\\u001b"}}]', "U+001B", id="a label that acts"
        ),
        pytest.param(
            json.dumps([{"key": ONE, "group": "g" * 201}]), "201 characters", id="a long group"
        ),
        pytest.param(f'{{"key": "{ONE}"}}\n7x', "line 2: is not a JSON object", id="a bad line"),
        pytest.param(f"apiKey,label\n{ONE}\n", "line 2: has 1 fields", id="a field too few"),
        pytest.param(f"apiKey,label\n{ONE},a,b\n", "line 2: has 3 fields", id="a field too many"),
        pytest.param(f"label,label,key\na,b,{ONE}\n", "a column twice", id="a column twice"),
        pytest.param("label,group\na,b\n", "line 1: has no column apiKey", id="no column of keys"),
        pytest.param(f'apiKey,label\n{ONE},"a', "is no CSV", id="an open quotation mark"),
        pytest.param(f"\n\nlabel,group\n{ONE},b\n", "line 3: has no column", id="a late header"),
    ],
)
def test_broken_layouts_are_explained(text: str, expected: str) -> None:
    """Whatever is wrong with JSON or CSV is said with its place, once."""
    found = problems(text)

    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"sk-one-012345\nsk-\xe9tude", "line 2: is not UTF-8", id="Latin-1"),
        pytest.param(ONE.encode("utf-16-le"), "UTF-16 without a mark", id="UTF-16 without mark"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: is not UTF-8", id="a picture"),
        pytest.param(b"\xff\xfea", "is not UTF-8", id="half a letter of UTF-16"),
    ],
)
def test_wrong_encodings_are_explained(data: bytes, expected: str) -> None:
    """Bytes that are no text are refused as a whole."""
    found = problems(data)

    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("keys.csv", ONE, "is no header", id="a .csv without a header"),
        pytest.param("KEYS.JSON", ONE, "is not valid JSON", id="a .json that is none"),
    ],
)
def test_the_ending_of_a_file_counts(name: str, text: str, expected: str) -> None:
    """A file that claims a layout has to have it."""
    assert expected in problems(text, name)[0]


def test_what_stands_there_twice_is_taken_once() -> None:
    """Duplicates are no mistake, but they are told with where they stood first."""
    intake = read(f"{ONE}\n{TWO}\n{ONE}\n".encode())

    assert secrets(intake) == [ONE, TWO]
    assert [(entry.where, first) for entry, first in intake.repeated] == [("line 3", "line 1")]


def test_a_key_is_not_its_own_backup() -> None:
    """The same secret among keys and backup keys is a mistake."""
    intake = read(json.dumps({"keys": [ONE], "backupKeys": [ONE]}).encode())

    assert [problem.where for problem in intake.problems] == ["$.backupKeys[0]"]
    assert intake.backups == ()


def test_bad_entries_do_not_hide_good_ones() -> None:
    """Everything that is sound is read, whatever stands around it."""
    intake = read(f"apiKey,label\n{ONE},a\nbroken\nsk-\u00e9,b\n{TWO},c\n".encode())

    assert secrets(intake) == [ONE, TWO]
    assert [problem.where for problem in intake.problems] == ["line 3", "line 4"]


def test_a_hundred_thousand_lines_are_read() -> None:
    """A large file is no special case."""
    text = "\n".join(f"sk-many-{number:09d}" for number in range(100_000))

    assert len(read(text.encode()).keys) == 100_000


def test_no_secret_shows_in_a_traceback() -> None:
    """What is printed of entries by accident has no secret in it."""
    intake = read(json.dumps({"keys": [ONE], "backupKeys": [TWO]}).encode())

    assert "sk-" not in repr(intake)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    """Any input gives keys or problems, never an exception, and only visible ASCII as keys."""
    intake = read(data)

    assert all(entry.secret.isascii() and entry.secret.isprintable() for entry in intake.keys)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_no_json_makes_it_fail(value: object) -> None:
    """Any JSON is read or refused, entry by entry."""
    entries = value if isinstance(value, list) else [value]

    intake = read(json.dumps({"keys": value}).encode())

    assert len(intake.problems) + len(intake.keys) + len(intake.repeated) == len(entries)
