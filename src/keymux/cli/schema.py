"""``keymux schema``: the JSON Schema of the config."""

from keymux.cli import options
from keymux.cli.saying import say_json
from keymux.settings import json_schema

app = options.command()


@app.command("schema", epilog="Example: keymux schema > keymux.schema.json")
def schema() -> None:
    """Print the JSON Schema of the config; name it in "$schema" and editors complete the file."""
    say_json(json_schema())
