"""A copy of the package with another file among the providers."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree

import keymux


def run_with(
    tmp_path: Path, files: dict[str, str], script: str
) -> subprocess.CompletedProcess[str]:
    """Run a script against a copy of the package that has some more provider files."""
    package = tmp_path / "keymux"
    copytree(Path(keymux.__file__).parent, package, ignore=lambda *_: {"__pycache__"})
    for name, text in files.items():
        (package / "providers" / name).write_text(text)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
    )
