"""Claims: who alone may try something for a while."""

from pymongo import ReturnDocument
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
            # a server takes no $expr in the filter of an upsert
            is_over = {"$lte": [{"$toLong": {"$ifNull": ["$until", 0]}}, {"$toLong": "$$NOW"}]}
            is_mine = {"$or": [{"$eq": ["$owner", {"$literal": owner}]}, is_over]}
            until = {"$add": ["$$NOW", round(seconds * 1000)]}
            held = {
                "owner": {"$cond": [is_mine, {"$literal": owner}, "$owner"]},
                "until": {"$cond": [is_mine, until, "$until"]},
            }
            try:
                after = await self._database.collection(CLAIMS).find_one_and_update(
                    {"_id": scope},
                    [{"$set": held}],
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                return False
            return after is not None and bool(after["owner"] == owner)

        return await self._database.run(work)
