"""Resolve the dependencies anew and write them down with their hashes.

``requirements/run.txt`` is what keymux needs to run, ``requirements/dev.txt`` adds what building,
testing and checking need. uv does the resolving, for every platform at once.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ["hatchling", "editables"]


def lock(name: str, wanted: list[str]) -> None:
    """Pin some requirements and all that they need."""
    target = ROOT / "requirements" / f"{name}.txt"
    source = target.with_suffix(".in")
    source.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    subprocess.run(  # noqa: S603 -- the arguments stand here
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "--universal",
            "--generate-hashes",
            "--no-header",
            "--no-emit-index-url",
            "--no-annotate",
            "--upgrade",
            "--quiet",
            "--python-version",
            "3.11",
            "--output-file",
            str(target),
            str(source),
        ],
        check=True,
        cwd=ROOT,
    )
    source.unlink()
    print(f"{target.relative_to(ROOT)}: {target.read_text().count('==')} packages")


def main() -> None:
    """Lock both sets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run = project["project"]["dependencies"]
    dev = project["dependency-groups"]["dev"]
    lock("run", run)
    lock("dev", run + dev + BUILD)


if __name__ == "__main__":
    main()
