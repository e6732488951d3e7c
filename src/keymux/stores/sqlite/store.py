"""The embedded store as the port wants it."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from keymux.core.records import ProviderState
from keymux.ids import record_id
from keymux.stores.sealing.unlocking import unlock
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import audit
from keymux.stores.sqlite.audit import SqliteAudit
from keymux.stores.sqlite.backups import SqliteBackupKeys
from keymux.stores.sqlite.bindings import SqliteBindings
from keymux.stores.sqlite.claims import SqliteClaims
from keymux.stores.sqlite.clients import SqliteClientKeys
from keymux.stores.sqlite.database import BUSY_TIMEOUT_S, Database, prepare, transaction
from keymux.stores.sqlite.everything import SqliteEverything
from keymux.stores.sqlite.keys import SqliteKeys, now_ms
from keymux.stores.sqlite.ledger import SqliteLedger
from keymux.stores.sqlite.proxies import SqliteProxies
from keymux.stores.sqlite.reading import Reader, state_of
from keymux.stores.sqlite.secrets import SqliteAnswers, SqliteSecrets


class SqliteStore:
    """See `keymux.stores.port.Store`.

    Args:
        path: of the database file.
        patience_s: how long to wait for another process that writes.
        vault: for the secrets in it; they are kept as they are when left out.
        tell: told of what is wrong with some of the records, in sentences.
    """

    def __init__(
        self,
        path: Path,
        patience_s: float = BUSY_TIMEOUT_S,
        *,
        vault: Vault | None = None,
        tell: Callable[[str], None] = lambda text: None,  # noqa: ARG005 -- nobody listens
    ) -> None:
        self._database = Database(path, patience_s, vault)
        reader = Reader(self._database.vault, tell)
        self.vault = self._database.vault
        self.answers = SqliteAnswers(self._database)
        self.secrets = SqliteSecrets(self._database)
        self.everything = SqliteEverything(self._database, reader)
        self._tell = tell
        self.keys = SqliteKeys(self._database, reader)
        self.backups = SqliteBackupKeys(self._database, reader)
        self.proxies = SqliteProxies(self._database, reader)
        self.bindings = SqliteBindings(self._database)
        self.clients = SqliteClientKeys(self._database)
        self.ledger = SqliteLedger(self._database)
        self.audit = SqliteAudit(self._database)
        self.claims = SqliteClaims(self._database)

    async def prepare(self, providers: Sequence[str]) -> list[str]:
        """Create what is missing, bring the schema up to date; says what was done.

        Raises:
            StoreUnusable: it is no database of ours, a newer one, or the key ring does not fit.
            StoreUnavailable: the file cannot be opened or written.
        """
        done = await self._database.run(
            lambda connection: prepare(connection, providers), create=True
        )
        await unlock(self.vault, self.answers, self.secrets, self._tell)
        return done

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of a provider as a whole."""

        def work(connection: sqlite3.Connection) -> ProviderState:
            row = connection.execute(
                "SELECT * FROM provider_states WHERE provider = ?", (provider,)
            ).fetchone()
            if row is None:
                return ProviderState()
            return state_of(row)

        return await self._database.run(work)

    async def reset_provider(self, provider: str, actor: str) -> None:
        """An operator's word that a provider may be asked again."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute(
                    "UPDATE provider_states SET status = 'healthy', cooldownUntil = NULL, "
                    "statusReason = '', step = 0, generation = generation + 1, updatedAt = ? "
                    "WHERE provider = ?",
                    (now_ms(), provider),
                )
                entry = audit.Entry(
                    id=record_id("aud"),
                    at=now_ms(),
                    actor=actor,
                    action="provider.reset",
                    provider=provider,
                    subject=provider,
                )
                audit.write(connection, entry)

        await self._database.run(work)

    async def close(self) -> None:
        """Give everything back."""
        await self._database.close()
