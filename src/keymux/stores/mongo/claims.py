"""Claims: who alone may try something for a while."""

from pymongo.errors import DuplicateKeyError

from keymux.stores.mongo.database import Database

CLAIMS = "claims"
KEPT_S = 3600


class MongoClaims:
    """See `keymux.stores.port.Claims`; the time is the server's, whatever the hosts' clocks say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, scope: str, owner: str, seconds: float) -> bool:
        """Hold a scope alone from now on; False while another owner does."""

        async def work() -> bool:
            is_over = {"$lte": [{"$toLong": "$until"}, {"$toLong": "$$NOW"}]}
            until = {"$add": ["$$NOW", round(seconds * 1000)]}
            try:
                await self._database.collection(CLAIMS).update_one(
                    {"_id": scope, "$or": [{"owner": owner}, {"$expr": is_over}]},
                    [{"$set": {"owner": {"$literal": owner}, "until": until}}],
                    upsert=True,
                )
            except DuplicateKeyError:
                return False
            return True

        return await self._database.run(work)
