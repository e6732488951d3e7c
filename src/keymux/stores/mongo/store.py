"""The shared store as the port wants it."""

from collections.abc import Callable, Sequence

from keymux.core.records import ProviderState
from keymux.stores.mongo import audit
from keymux.stores.mongo.audit import MongoAudit
from keymux.stores.mongo.backups import MongoBackupKeys
from keymux.stores.mongo.bindings import MongoBindings
from keymux.stores.mongo.booking import Booking
from keymux.stores.mongo.claims import MongoClaims
from keymux.stores.mongo.clients import MongoClientKeys
from keymux.stores.mongo.database import PATIENCE_S, Database, Session
from keymux.stores.mongo.documents import provider_fields, provider_state
from keymux.stores.mongo.everything import MongoEverything
from keymux.stores.mongo.keys import MongoKeys, now_ms
from keymux.stores.mongo.ledger import MongoLedger
from keymux.stores.mongo.proxies import MongoProxies
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.schema import Schema
from keymux.stores.mongo.secrets import MongoAnswers, MongoSecrets
from keymux.stores.mongo.transitions import PROVIDERS
from keymux.stores.sealing.unlocking import unlock
from keymux.stores.sealing.vault import Vault


class MongoStore:
    """See `keymux.stores.port.Store`.

    Args:
        uri: of the server or replica set, with the name of the database.
        tell: told of documents that cannot be used, each once, without their values.
        patience_s: how long to wait for a server, an answer, and others who write.
        vault: for the secrets in it; they are kept as they are when left out.
    """

    def __init__(
        self,
        uri: str,
        tell: Callable[[str], None],
        patience_s: float = PATIENCE_S,
        *,
        vault: Vault | None = None,
    ) -> None:
        self._database = Database(uri, patience_s, vault)
        self.vault = self._database.vault
        self.answers = MongoAnswers(self._database)
        self.secrets = MongoSecrets(self._database)
        self._tell = tell
        self._reader = Reader(tell, self.vault)
        self._booking = Booking(self._database, self._reader)
        self.everything = MongoEverything(self._database, self._reader, self._booking)
        self._schema = Schema(self._database, self._reader)
        self.keys = MongoKeys(self._database, self._reader, self._booking)
        self.backups = MongoBackupKeys(self._database, self._reader)
        self.proxies = MongoProxies(self._database, self._reader)
        self.bindings = MongoBindings(self._database, self._reader)
        self.clients = MongoClientKeys(self._database, self._reader)
        self.ledger = MongoLedger(self._database, self._reader, self._booking)
        self.audit = MongoAudit(self._database, self._reader)
        self.claims = MongoClaims(self._database)

    async def prepare(self, providers: Sequence[str]) -> list[str]:
        """Create what is missing, bring the schema up to date; says what was done.

        Raises:
            StoreUnusable: it is no database of ours, a newer one, or the key ring does not fit.
            StoreUnavailable: the server cannot be reached or written now.
        """
        done = await self._database.run(lambda: self._schema.prepare(providers))
        await unlock(self.vault, self.answers, self.secrets, self._tell)
        for provider in providers:
            await self.backups.finish_promotions(provider)
        return done

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of a provider as a whole."""

        async def work() -> ProviderState:
            document = await self._database.collection(PROVIDERS).find_one({"_id": provider})
            read = document and self._reader.record(PROVIDERS, provider_state, document)
            return read or ProviderState()

        return await self._database.run(work)

    async def reset_provider(self, provider: str, actor: str) -> None:
        """An operator's word that a provider may be asked again."""
        fields = provider_fields(ProviderState(), now_ms())
        del fields["generation"]

        async def work(session: Session) -> None:
            await self._database.collection(PROVIDERS).update_one(
                {"_id": provider}, {"$set": fields, "$inc": {"generation": 1}}, session=session
            )
            entry = audit.Entry(
                at=now_ms(),
                actor=actor,
                action="provider.reset",
                provider=provider,
                subject=provider,
            )
            await audit.write(self._database, [entry], session)

        await self._database.transact(work)

    async def close(self) -> None:
        """Give everything back."""
        await self._database.close()
