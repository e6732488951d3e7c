"""The rules of CONTRIBUTING.md that no linter knows."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from keymux.core.faults import UpstreamFault, leaves
from keymux.core.retrying import DECISIONS
from keymux.providers import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
SOURCE = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LONG_FILES: dict[str, str] = PROJECT["tool"]["keymux"]["long-files"]
SOURCE_LINES, TEST_LINES, SERVE_LINES, PROVIDER_LINES = 500, 800, 40, 150
GENERIC_DIALECTS = {"openai", "anthropic", "sandbox"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "path", [path for path in SOURCE if _name(path) not in LONG_FILES], ids=_name
)
def test_source_files_can_be_read_in_one_sitting(path: Path) -> None:
    """A source file has at most 500 lines, a provider 150; who has more is named."""
    limit = PROVIDER_LINES if path.parent.name == "providers" and path.name != "base.py" else None

    assert len(path.read_text().splitlines()) <= (limit or SOURCE_LINES)


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_test_files_stay_short(path: Path) -> None:
    """A test file has at most 800 lines."""
    assert len(path.read_text().splitlines()) <= TEST_LINES


def test_the_story_fits_on_one_screen() -> None:
    """`Gateway.serve` is the first thing people read."""
    tree = ast.parse((ROOT / "src/keymux/exchange/serve.py").read_text())
    serve = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "serve"
    )

    assert (serve.end_lineno or 0) - serve.lineno + 1 <= SERVE_LINES


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCE if path.parent.name not in {"providers", "sandbox"}],
    ids=_name,
)
def test_vendors_are_named_in_their_own_files_only(path: Path) -> None:
    """Outside `providers/` and the sandbox no line of code names a vendor; only prose may."""
    vendors = set(CATALOGUE) - GENERIC_DIALECTS
    names = {
        node.value.lower()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if len(node.value) < 40
    }

    assert not vendors & names


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_every_test_says_what_it_promises(path: Path) -> None:
    """Tests have docstrings."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_fault_codes_are_unique() -> None:
    """A code names one fault."""
    codes = [fault.code for fault in leaves()]

    assert sorted(codes) == sorted(set(codes))


def test_the_decision_table_knows_every_upstream_fault() -> None:
    """There is a row for each, and for nothing else."""
    assert set(leaves(UpstreamFault)) == set(DECISIONS)


@pytest.mark.parametrize("path", [*SOURCE, *TESTS], ids=_name)
def test_imports_stand_at_the_top(path: Path) -> None:
    """No import of our own code hides inside a function."""
    tree = ast.parse(path.read_text())
    hidden = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keymux")
    ]

    assert hidden == []


def test_every_exception_to_a_rule_has_a_reason() -> None:
    """`noqa` and `type: ignore` say why."""
    bare = [
        f"{_name(path)}:{number}"
        for path in [*SOURCE, *TESTS]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*(noqa|type: ignore)", line)
        if not re.search(r"(noqa: [A-Z0-9, ]+|ignore\[[a-z-]+\]) +(#\s*)?-- \S", line)
        if "re.search" not in line and "say why" not in line
    ]

    assert bare == []


def test_dependencies_are_few_and_locked() -> None:
    """At most twelve direct dependencies, and every package has a hash."""
    lock = (ROOT / "requirements/run.txt").read_text()

    assert len(PROJECT["project"]["dependencies"]) <= 12
    assert lock.count("==") <= lock.count("--hash=sha256:")
