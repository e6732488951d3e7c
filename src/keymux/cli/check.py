"""``keymux check``: everything that is wrong with the config, at once."""

import typer

from keymux.cli import options
from keymux.cli.saying import FAILED, fail, say, say_json
from keymux.settings import BadConfig, Settings, load

app = options.command()


@app.command("check", epilog="Example: keymux check --config config/config-failover.json")
def check(
    *, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False
) -> None:
    """Say everything that is wrong with the config, each with its JSON path; 1 if anything is."""
    try:
        settings = load(config)
    except BadConfig as error:
        if not as_json:
            fail(*error.problems, f"{config} cannot be used; mend the above")
        say_json({"config": str(config), "sound": False, "problems": _split(error.problems)})
        raise typer.Exit(FAILED) from None
    if as_json:
        say_json({"config": str(config), "sound": True, "problems": []})
        return
    say(
        f"{config} is sound: providers {', '.join(settings.providers)}; "
        f"{len(settings.models)} models; store {_where(settings)}"
    )


def _where(settings: Settings) -> str:
    return str(settings.database.absolute()) if settings.database else settings.store_shown


def _split(problems: list[str]) -> list[dict[str, str]]:
    parted = (problem.partition(": ") for problem in problems)
    return [{"path": path, "problem": words} for path, _, words in parted]
