"""``keymux keys test``: whether a provider accepts its keys.

It stands apart from ``keymux keys`` because it alone needs the HTTP client.
"""

import atexit
import os
import sys
from typing import Annotated, NoReturn

import typer

from keymux.cli import options
from keymux.cli.leaving import ways as ways_out
from keymux.cli.picking import pick_keys
from keymux.cli.place import Place
from keymux.cli.saying import FAILED, INTERRUPTED
from keymux.cli.trial import try_keys

app = options.command()


@app.command("test", epilog="Example: keymux keys test openhands key_3f2a")
def keys_test(
    provider: options.Provider,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Which ones; without any, all that may get traffic now."),
    ] = None,
    *,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for one answer.", min=0.1, max=600)
    ] = 15.0,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Ask whether the provider accepts its keys; free of charge.

    Nothing is changed. Ends with 1 unless all keys are accepted. A key that is quarantined,
    disabled, replaced or in a cooldown is left alone unless it is named.
    """
    place = Place(config)
    place.provider(provider)
    records = place.use(lambda store: store.keys.load(provider))
    own = place.settings.providers[provider]
    ways = place.use(lambda store: ways_out(store, provider, own))
    if ids:
        chosen = set(pick_keys(ids, records, provider))
        records = [record for record in records if record.id in chosen]
    try:
        accepted = try_keys(
            place.settings,
            provider,
            records,
            ways,
            named=bool(ids),
            timeout=timeout,
            as_json=as_json,
        )
    except KeyboardInterrupt:
        _leave(INTERRUPTED)
    _leave(0 if accepted else FAILED)


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart.

    The HTTP client has threads of its own. One that still has a word with Python at that time makes
    the interpreter abort, and a test that went well would end with a signal (pyreqwest 0.15.1,
    2026-11: about one run in six).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # noqa: SLF001 -- os._exit would skip them
    os._exit(code)
