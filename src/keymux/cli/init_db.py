"""``keymux init-db``: create what the store lacks."""

from pathlib import Path

from keymux.cli import options
from keymux.cli.place import Place
from keymux.cli.saying import fail, note, say, say_json

app = options.command()


@app.command("init-db", epilog="Example: keymux init-db --config config/config-failover.json")
def init_db(
    *, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False
) -> None:
    """Create the database, its tables and indexes as far as they are missing, and say what."""
    place = Place(config)
    if place.settings.database is not None:
        _make_folder(place.settings.database.absolute().parent)
    done = place.prepare()
    if as_json:
        say_json({"store": place.settings.store_shown, "done": done})
        return
    for line in done:
        say(f"made: {line}")
    if not done:
        say("nothing to do: the store has everything")


def _make_folder(folder: Path) -> None:
    if folder.exists():
        return
    note(f"making the folder {folder}")
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        fail(f"cannot make the folder {folder}: {error.strerror}", "see $.store in the config")
