"""Key hashes of documents that other programs have written: by them a secret is found again."""

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from keymux.core.secrets import hash_of
from keymux.stores.mongo.database import Collection
from keymux.stores.mongo.documents import read_secret
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.troubles import is_duplicate

_LACKING = {"keyHash": None, "apiKey": {"$type": "string", "$not": {"$type": "array"}}}


async def lacks_hashes(collection: Collection) -> bool:
    """Whether some documents have an upstream key and no hash."""
    return await collection.find_one(_LACKING, projection={"_id": True}) is not None


async def add_hashes(collection: Collection, name: str, reader: Reader) -> list[str]:
    """Add the hashes that are missing; says what was done.

    A secret that is there twice keeps one hash; the other document is told of and left alone.
    """
    found = await collection.find(_LACKING).to_list()
    updates = [
        UpdateOne({"_id": document["_id"], "keyHash": None}, {"$set": {"keyHash": hash_of(secret)}})
        for document in found
        if (secret := reader.record(name, read_secret, document))
    ]
    if not updates:
        return []
    done = len(updates)
    try:
        await collection.bulk_write(updates, ordered=False)
    except BulkWriteError as error:
        if not is_duplicate(error):
            raise
        twins = error.details["writeErrors"]
        done -= len(twins)
        reader.tell(f"{name}: {len(twins)} documents hold an upstream key that another one holds")
    return [f"hashes of {done} upstream keys in {name}"] if done else []
