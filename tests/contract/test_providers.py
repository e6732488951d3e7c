"""What every provider dialect keeps to, whoever wrote it: new files are tested by themselves."""

import ast
from pathlib import Path

import pytest

from keymux import providers
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE, by_name
from keymux.providers.base import Provider
from keymux.settings.address import check_address
from tests.providers.new_file import run_with

FOLDER = Path(providers.__file__).parent
SHARED = {"__init__", "base", "signs"}
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)
DIALECTS = [pytest.param(CATALOGUE[name], id=name) for name in sorted(CATALOGUE)]
SECRET = "sk-secret-0123456789"
ROOM_FOR_A_FILE = 150
NEW = '''"""Acme: a new provider."""

from keymux.providers.base import BOTH_FORMATS, Provider

provider = Provider(name="acme", title="Acme", base_url="https://acme.test", paths=BOTH_FORMATS)
'''

in_every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
with_every_dialect = pytest.mark.parametrize("provider", DIALECTS)


# -- the file --------------------------------------------------------------------------------------
@in_every_file
def test_a_file_is_a_dialect_of_the_same_name(path: Path) -> None:
    """`kind` in the config is the name of the file."""
    assert CATALOGUE[path.stem].name == path.stem


@in_every_file
def test_a_file_says_what_it_is_about(path: Path) -> None:
    """Its first line is a sentence."""
    words = ast.get_docstring(ast.parse(path.read_text())) or ""

    assert words.splitlines()[:1] != []
    assert words.endswith(".")


@in_every_file
def test_a_file_is_small(path: Path) -> None:
    """Whoever needs more has a wire format of its own."""
    assert len(path.read_text().splitlines()) <= ROOM_FOR_A_FILE


def test_there_are_no_dialects_without_a_file() -> None:
    """The folder is the registry."""
    assert set(CATALOGUE) == {path.stem for path in FILES}


# -- the declaration -------------------------------------------------------------------------------
@with_every_dialect
def test_it_has_a_name_for_configs_and_one_for_people(provider: Provider) -> None:
    """Both are there."""
    assert provider.name.isidentifier()
    assert provider.name == provider.name.lower()
    assert provider.title.strip() == provider.title != ""


@with_every_dialect
def test_its_own_address_is_safe(provider: Provider) -> None:
    """Either https and without a slash at the end, or left to the config."""
    if provider.base_url:
        check_address(provider.base_url)

    assert provider.base_url == "" or provider.base_url.startswith("https://")
    assert not provider.base_url.endswith("/")


@with_every_dialect
def test_its_paths_stand_below_the_address(provider: Provider) -> None:
    """They begin with a slash and hold nothing that a URL would read otherwise."""
    paths = [*provider.paths.values(), provider.test_path]

    assert all(path.startswith("/") and path.isascii() and path.isprintable() for path in paths)
    assert not any(odd in path for path in paths for odd in (" ", "?", "#", "//", "/.", "%", "\\"))
    assert not any(path.endswith("/") for path in paths)


@with_every_dialect
def test_it_speaks_a_format(provider: Provider) -> None:
    """At least one; and who counts tokens of a format speaks it too."""
    spoken = {wire_format for wire_format in WireFormat if provider.speaks(wire_format)}

    assert spoken
    assert {wire_format for wire_format, _ in provider.paths} == spoken
    assert {operation for _, operation in provider.paths} <= set(Operation)


@with_every_dialect
@pytest.mark.parametrize("wire_format", list(WireFormat))
def test_the_secret_travels_in_one_header(provider: Provider, wire_format: WireFormat) -> None:
    """Lower-case, and neither in the name of a header nor in two of them."""
    headers = provider.sign(SECRET, wire_format)

    assert [SECRET in value for _, value in headers].count(True) == 1
    assert all(name == name.lower() and SECRET not in name for name, _ in headers)
    assert all(
        text.isascii() and text.isprintable() and ":" not in name
        for name, value in headers
        for text in (name, value)
    )


@with_every_dialect
def test_signing_is_the_same_every_time(provider: Provider) -> None:
    """The same key gives the same headers, another key others."""
    signed = provider.sign(SECRET, WireFormat.OPENAI)

    assert provider.sign(SECRET, WireFormat.OPENAI) == signed
    assert provider.sign("sk-other", WireFormat.OPENAI) != signed


@with_every_dialect
def test_request_ids_are_looked_for_in_lower_case(provider: Provider) -> None:
    """At least one header, as the transport looks it up."""
    assert provider.request_id_headers
    assert all(name == name.lower() and name.isascii() for name in provider.request_id_headers)


@with_every_dialect
def test_a_sign_names_something(provider: Provider) -> None:
    """One that names nothing would be met by every error."""
    assert all(mark.statuses or mark.names or mark.words for mark in provider.signs)
    assert all(name == name.lower() for mark in provider.signs for name in mark.names)


# -- a new one -------------------------------------------------------------------------------------
def test_a_new_file_is_all_it_takes(tmp_path: Path) -> None:
    """Dropping a file into the folder adds its dialect, and nothing else changes."""
    show = "from keymux.providers import CATALOGUE; print(*CATALOGUE)"
    shown = run_with(tmp_path, {"acme.py": NEW, "words.py": '"""No dialect."""\n'}, show)

    assert shown.stderr == ""
    assert shown.stdout.split() == sorted([*CATALOGUE, "acme"])


def test_two_files_cannot_share_a_name() -> None:
    """Which of them would be meant is anybody's guess, so nothing starts."""
    twice = [CATALOGUE["openai"], CATALOGUE["openai"]]

    with pytest.raises(ValueError, match=r"two files of keymux\.providers call .* 'openai'"):
        by_name(twice)
