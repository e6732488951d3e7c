"""All secrets of a store sealed with the current key, while others use the store.

Each secret is changed only if it is still as it was read, so nothing that is written meanwhile is
lost, and the work may end anywhere and be begun again.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct

from keymux.stores.port import StoreUnavailable
from keymux.stores.sealing.port import Change, Secret, Secrets
from keymux.stores.sealing.vault import CannotOpen, Vault, key_id_of

_AT_ONCE = 200
_ROUNDS = 20

Progress = Callable[[str, int, int], None]
"""Told the collection, how many of its secrets were done now, and how many there are to do."""


class Tally(Struct, frozen=True):
    """The secrets of a collection.

    Attributes:
        collection: which.
        sealed: how many are sealed with each key.
        plain: how many are not sealed.
        broken: why some cannot be opened, a line each.
    """

    collection: str
    sealed: dict[str, int]
    plain: int
    broken: tuple[str, ...]


class Resealed(Struct, frozen=True):
    """What came of it.

    Attributes:
        changed: secrets that were stored anew.
        broken: why some could not be opened, a line each; they are as they were.
    """

    changed: int
    broken: tuple[str, ...]


async def tally(vault: Vault, secrets: Secrets) -> list[Tally]:
    """How the secrets of a store are sealed; each is opened to see whether that can be done."""
    found = []
    for collection in await secrets.collections():
        stored = [secret for secret in await secrets.load(collection) if secret.stored]
        kinds = Counter(key_id_of(secret.stored) for secret in stored)
        plain = kinds.pop("", 0)
        broken = [why for secret in stored if (why := _trouble(vault, secret))]
        broken += await secrets.passed_over(collection)
        found.append(Tally(collection, dict(kinds), plain, tuple(broken)))
    return found


def _trouble(vault: Vault, secret: Secret) -> str:
    try:
        vault.open(secret.place, secret.stored)
    except CannotOpen as error:
        return str(error)
    return ""


async def reseal(vault: Vault, secrets: Secrets, told: Progress) -> Resealed:
    """Seal all secrets with the current key that are not.

    Raises:
        StoreUnavailable: others keep changing them.
    """
    ring, changed, broken = vault.ring(), 0, dict[str, None]()
    if ring is None:
        raise StoreUnavailable("the key ring is not there")
    for collection in await secrets.collections():
        broken.update(dict.fromkeys(await secrets.passed_over(collection)))
        for _ in range(_ROUNDS):
            wanted = [
                secret
                for secret in await secrets.load(collection)
                if secret.stored and key_id_of(secret.stored) != ring.current
            ]
            changes, troubles = _changes(vault, wanted)
            broken.update(dict.fromkeys(troubles))
            if not changes:
                break
            changed += await _replace(secrets, collection, changes, told)
        else:
            raise StoreUnavailable(f"others keep changing {collection}; try again")
    return Resealed(changed, tuple(broken))


def _changes(vault: Vault, wanted: Sequence[Secret]) -> tuple[list[Change], list[str]]:
    changes, troubles = [], []
    for secret in wanted:
        try:
            text = vault.open(secret.place, secret.stored)
        except CannotOpen as error:
            troubles.append(str(error))
        else:
            after = vault.seal(secret.place, text)
            changes.append(Change(secret.place, secret.stored, after))
    return changes, troubles


async def _replace(
    secrets: Secrets, collection: str, changes: Sequence[Change], told: Progress
) -> int:
    done = 0
    for start in range(0, len(changes), _AT_ONCE):
        portion = changes[start : start + _AT_ONCE]
        done += await secrets.replace(portion)
        told(collection, len(portion), len(changes))
    return done
