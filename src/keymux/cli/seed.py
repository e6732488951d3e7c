"""``keymux seed``: the initial keys and backup keys, from one file."""

from pathlib import Path
from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.handover import from_file
from keymux.cli.importing import Wish, import_keys
from keymux.cli.place import Place

app = options.command()


@app.command("seed", epilog="Example: keymux seed openhands --file keys.json")
def seed(
    provider: options.Provider,
    *,
    file: Annotated[Path, typer.Option(help='JSON: {"keys": [...], "backupKeys": [...]}.')],
    skip_bad: options.SkipBad = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Import keys and backup keys; what is there already stays, so it may be run again."""
    place = Place(config)
    place.provider(provider)
    wish = Wish(skip_bad=skip_bad, as_json=as_json)
    import_keys(place, provider, from_file(file), file.name, wish)
