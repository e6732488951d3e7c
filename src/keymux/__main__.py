"""``python -m keymux``."""

from keymux.cli.main import main

main()
