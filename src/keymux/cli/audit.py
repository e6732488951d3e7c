"""``keymux audit``: who changed what."""

from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.moments import moment
from keymux.cli.place import Place
from keymux.cli.tables import Column, Row, listing, plain
from keymux.core.records import AuditRow

app = options.command()


def _to_the_minute(value: object) -> str:
    return plain(value)[:16].replace("T", " ")


_COLUMNS = (
    Column("seq", "no.", right=True, whole=True),
    Column("at", "when (UTC)", _to_the_minute, whole=True),
    Column("actor"),
    Column("action", "what", whole=True),
    Column("provider"),
    Column("subject", "of what, and why"),
    Column("reason"),
    Column("before", "before, after"),
    Column("after"),
)


@app.command("audit", epilog="Example: keymux audit --limit 20")
def audit(
    *,
    limit: Annotated[
        int, typer.Option(help="How many entries, the newest.", min=1, max=1_000_000)
    ] = 50,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Show who changed what, newest first: operators, servers, and keys that fell ill."""
    place = Place(config)
    rows = [_row(row) for row in place.use(lambda store: store.audit.latest(limit))]
    listing(rows, _COLUMNS, as_json=as_json, nothing="nothing has happened yet")


def _row(row: AuditRow) -> Row:
    return {
        "seq": row.seq,
        "at": moment(row.at),
        "actor": row.actor,
        "action": row.action,
        "provider": row.provider,
        "subject": row.subject,
        "reason": row.reason,
        "before": row.before,
        "after": row.after,
    }
