"""The pages of docs/ say what the code says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keymux.core.faults import UpstreamFault, leaves
from keymux.settings import json_schema, parse
from tests.providers.new_file import run_with

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OWN = ["adding-a-provider", "configuration", "egress", "errors", "scaling", "secrets", "vocabulary"]
_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_NAMED_FILE = re.compile(r"`((?:src|tests|config|core|wire|pools|providers)/[\w/.-]*)`")
WORDS = re.findall(
    r"\w+",
    "client caller operator provider pool model target route exchange lease attempt reply fault "
    "blame commit cooldown quarantine settle ledger drain journal egress binding",
)
PHRASES = ["client key", "upstream key", "backup key", "quota group", "wire format"]


def _page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def _blocks(page: str, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(_page(page)) if found == language]


def _first_cells(page: str) -> list[str]:
    return re.findall(r"^\| `?([^|`]+?)`? \|", _page(page), re.MULTILINE)


# -- all of them -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["errors", "configuration"])
def test_generated_parts_are_what_the_code_says(name: str) -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check", f"docs/{name}.md"],
        capture_output=True,
        check=False,
        text=True,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", OWN)
def test_links_and_files_are_there(name: str) -> None:
    """Neither a link nor the name of a file leads nowhere."""
    text = _page(name)
    links = [DOCS / target for target in _LINK.findall(text)]
    files = [ROOT / path for path in _NAMED_FILE.findall(text)]
    inside = [ROOT / "src" / "keymux" / path for path in _NAMED_FILE.findall(text)]

    assert all(path.exists() for path in links)
    assert all(outer.exists() or inner.exists() for outer, inner in zip(files, inside, strict=True))


# -- errors ----------------------------------------------------------------------------------------
def test_every_fault_is_explained() -> None:
    """Once for what it is, and those of upstreams once more for what follows."""
    found = _first_cells("errors")

    assert {fault.code: found.count(fault.code) for fault in leaves()} == {
        fault.code: 2 if issubclass(fault, UpstreamFault) else 1 for fault in leaves()
    }


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            "| `key_spent` | none | other quota group, then other provider | other quota group, "
            "then other provider | - | quota group exhausted until its reset, else one probe an "
            "hour |",
            id="a spent key",
        ),
        pytest.param(
            "| `key_spent` | The quota group's budget, credit or quota is used up. | quota group "
            "| 503 (Anthropic 529) `no_capacity` |",
            id="what the client hears of it",
        ),
        pytest.param(
            "| `request_refused` | The provider found the client's request wrong: 400, 404, 409, "
            "413, 422. | client | the provider's own, else 400 `request_refused` |",
            id="a wrong request",
        ),
        pytest.param(
            "| `client_gone` | 499 | The client hung up; nobody is blamed. | `The client closed "
            "the connection.` |",
            id="a client that left",
        ),
        pytest.param(
            "| `upstream_no_reply` | unknown, perhaps billed | other key, then other provider | "
            "other key, then other provider | - | provider error counted, five in a row and it is "
            "away |",
            id="a connection that ended without an answer",
        ),
    ],
)
def test_what_the_tables_of_errors_say(line: str) -> None:
    """A few lines in full, so that the page is read and not only compared."""
    assert line in _page("errors").splitlines()


# -- configuration ---------------------------------------------------------------------------------
def test_every_setting_is_explained() -> None:
    """All fields of all sections of the schema, each as often as there are sections with it."""
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    fields = [field for section in sections for field in section["properties"]]
    found = _first_cells("configuration")

    assert {field: found.count(field) for field in fields} == {
        field: fields.count(field) for field in fields
    }


@pytest.mark.parametrize(
    "line",
    [
        "| `port` | integer from 1 to 65535 | `8005` | Port to listen on. |",
        "| `idle_s` | number above 0 to 86400 | `120` | Silence within an upstream's answer. |",
        "| `attempts` | integer from 1 to 32 | `8` | Attempts in all. |",
        "| `body_bytes` | integer from 1 | `33554432` | Largest request body. |",
        '| `format` | `json`, `console` | `"json"` | For programs or for people. |',
        "| `provider` | string | required | Name of a provider of this config. |",
        "| `limits` | object | - | See `limits`. |",
    ],
)
def test_what_the_tables_of_settings_say(line: str) -> None:
    """Type, bounds, default and meaning."""
    assert line in _page("configuration").splitlines()


def test_the_smallest_config_is_one() -> None:
    """What the page shows can be used."""
    (text,) = _blocks("configuration", "json")
    settings = parse(text, source="docs", environment={})

    assert list(settings.routes().models) == ["gpt-4.1"]


def test_every_shipped_config_is_named() -> None:
    """In the table of the introduction."""
    text = _page("configuration").replace("-dev.json`, `-prod.json`", "-dev.json` `-prod.json`")
    names = [path.name for path in sorted((ROOT / "config").glob("*.json"))]

    assert names
    assert all(name in text or name.replace("-prod", "-dev") in text for name in names)


# -- adding a provider -----------------------------------------------------------------------------
SPENT_AND_SIGNED = """
from keymux.providers import CATALOGUE
from keymux.core.vocabulary import WireFormat
from keymux.wire.upstream_error import Complaint
acme = CATALOGUE["acme"]
print(acme.sign("s", WireFormat.OPENAI))
print(acme.fault(Complaint(418, "empty_wallet"), request=b"{}", told=None).__name__)
print(acme.fault(Complaint(418), request=b"{}", told=None).__name__)
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param(
            0,
            ["(('authorization', 'Bearer s'),)", "KeySpent", "RequestRefused"],
            id="the ten lines",
        ),
        pytest.param(
            1,
            [
                "(('x-acme-ticket', 's'), ('x-acme-format', 'openai'))",
                "RequestRefused",
                "RequestRefused",
            ],
            id="signing of its own",
        ),
    ],
)
def test_the_examples_work(tmp_path: Path, number: int, expected: list[str]) -> None:
    """Each is a whole file that registers itself and does what the text around it says."""
    example = _blocks("adding-a-provider", "python")[number]
    done = run_with(tmp_path, {"acme.py": example}, SPENT_AND_SIGNED)

    assert done.stderr == ""
    assert done.stdout.splitlines() == expected


def test_the_example_is_as_short_as_it_says() -> None:
    """Ten lines to write, and the imports."""
    example = _blocks("adding-a-provider", "python")[0].splitlines()
    written = [line for line in example if line and not line.startswith("from ")]

    assert len(written) <= 10


def test_an_example_is_a_config() -> None:
    """What the text says a config can say is JSON."""
    (said,) = re.findall(r"`(\{[^`]*\})`", _page("adding-a-provider"))

    assert json.loads(said) == {"kind": "acme"}


# -- vocabulary ------------------------------------------------------------------------------------
def test_every_word_is_explained_once() -> None:
    """The nouns of the code and of the docs."""
    found = _first_cells("vocabulary")

    assert {word: found.count(word) for word in [*WORDS, *PHRASES]} == dict.fromkeys(
        [*WORDS, *PHRASES], 1
    )
