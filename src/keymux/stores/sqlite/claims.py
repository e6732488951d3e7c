"""Claims: who alone may try something for a while."""

import sqlite3

from keymux.stores.sqlite.database import Database, transaction
from keymux.stores.sqlite.keys import now_ms

_KEPT_MS = 3_600_000


class SqliteClaims:
    """See `keymux.stores.port.Claims`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, scope: str, owner: str, seconds: float) -> bool:
        """Hold a scope alone from now on; False while another owner does."""

        def work(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                now = now_ms()
                connection.execute("DELETE FROM claims WHERE until < ?", (now - _KEPT_MS,))
                done = connection.execute(
                    "INSERT INTO claims (scope, owner, until) VALUES (?, ?, ?) "
                    "ON CONFLICT (scope) DO UPDATE SET owner = excluded.owner, "
                    "until = excluded.until WHERE owner = excluded.owner OR until <= ?",
                    (scope, owner, now + round(seconds * 1000), now),
                )
                return done.rowcount == 1

        return await self._database.run(work)
