"""What all tests of the command line share."""

from pathlib import Path

import pytest

from tests.cli.program import Program


@pytest.fixture
def keymux(tmp_path: Path) -> Program:
    """The program in a folder with a config and no database yet."""
    return Program(tmp_path)
