"""The audit table: who changed what, in order."""

import sqlite3

from msgspec import Struct

from keymux.core.records import AuditRow
from keymux.stores.sqlite.database import Database

_COLUMNS = "seq, at, actor, action, provider, subject, before, after, reason"


class Entry(Struct, frozen=True):
    """What is to be written down.

    Attributes:
        id: unique; writing it twice does no harm.
    """

    id: str
    at: int
    actor: str
    action: str
    provider: str
    subject: str
    before: str = ""
    after: str = ""
    reason: str = ""


def write(connection: sqlite3.Connection, entry: Entry) -> bool:
    """Add an entry within the caller's transaction; False if it was there."""
    done = connection.execute(
        "INSERT INTO audit (_id, at, actor, action, provider, subject, before, after, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (_id) DO NOTHING",
        (
            entry.id,
            entry.at,
            entry.actor,
            entry.action,
            entry.provider,
            entry.subject,
            entry.before,
            entry.after,
            entry.reason,
        ),
    )
    return done.rowcount == 1


class SqliteAudit:
    """See `keymux.stores.port.Audit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self) -> int:
        """The highest sequence number, 0 for none."""
        return await self._database.run(
            lambda connection: int(
                connection.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()[0]
            )
        )

    async def since(self, seq: int, limit: int) -> list[AuditRow]:
        """What came after a sequence number, oldest first."""
        statement = f"SELECT {_COLUMNS} FROM audit WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 -- constant
        return await self._database.run(
            lambda connection: _rows(connection.execute(statement, (seq, limit)))
        )

    async def latest(self, limit: int) -> list[AuditRow]:
        """The last ones, newest first."""
        statement = f"SELECT {_COLUMNS} FROM audit ORDER BY seq DESC LIMIT ?"  # noqa: S608 -- constant
        return await self._database.run(
            lambda connection: _rows(connection.execute(statement, (limit,)))
        )


def _rows(cursor: sqlite3.Cursor) -> list[AuditRow]:
    return [AuditRow(*row) for row in cursor]
