"""Collections and indexes that there have to be.

Unique indexes cover certain types only: documents of other programs, which lack the field, do not
collide in them.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from pymongo import ASCENDING, DESCENDING

from keymux.stores.mongo.audit import AUDIT
from keymux.stores.mongo.booking import EXCHANGES, KEY_COUNTS
from keymux.stores.mongo.claims import CLAIMS, KEPT_S
from keymux.stores.mongo.clients import CLIENTS
from keymux.stores.mongo.database import collection_name
from keymux.stores.mongo.egress_documents import PROXIES, key_field
from keymux.stores.mongo.transitions import PROVIDERS
from keymux.stores.port import StoreUnusable

META = "keymux_meta"

OURS = {
    AUDIT: ("seq", "action"),
    CLAIMS: ("owner", "until"),
    KEY_COUNTS: ("begunAt",),
    EXCHANGES: ("caller", "outcome"),
    CLIENTS: ("keyHash",),
    PROVIDERS: ("generation",),
}
"""Fields by which collections that only keymux writes are told from somebody else's."""


class Index(Struct, frozen=True):
    """An index that there has to be.

    Attributes:
        fields: in their order; one that begins with ``-`` is descending.
        unique: the type of values of which none may be there twice, empty for any number of them.
        ends_s: documents are deleted so many seconds after the time in the field.
    """

    fields: tuple[str, ...]
    unique: str = ""
    ends_s: int | None = None

    @property
    def key(self) -> list[tuple[str, int]]:
        """As the server wants it."""
        return [
            (name.lstrip("-"), DESCENDING if name.startswith("-") else ASCENDING)
            for name in self.fields
        ]

    @property
    def options(self) -> dict[str, Any]:
        """How it is made."""
        if self.ends_s is not None:
            return {"expireAfterSeconds": self.ends_s}
        if not self.unique:
            return {}
        condition = {"$exists": True} if self.unique == "any" else {"$type": self.unique}
        covered = {name: condition for name, _ in self.key}
        return {"unique": True, "partialFilterExpression": covered}


Layout = dict[str, tuple[Index, ...]]
"""Indexes by collection."""

_HASH = Index(("keyHash",), unique="string")
_CLAIM = Index(("claim",), unique="string")

SHARED: Layout = {
    META: (),
    PROVIDERS: (),
    CLIENTS: (_HASH,),
    EXCHANGES: (),
    AUDIT: (Index(("seq",), unique="number"),),
    CLAIMS: (Index(("until",), ends_s=KEPT_S),),
    KEY_COUNTS: (),
    PROXIES: (Index(("addressHash",), unique="string"),),
}


def of_provider(provider: str) -> Layout:
    """The collections of a provider."""
    key = key_field(provider)
    return {
        collection_name(provider, "keys"): (
            Index(("status",)),
            Index(("cooldownUntil",)),
            Index(("-createdAt",)),
            _HASH,
            _CLAIM,
        ),
        collection_name(provider, "backup_keys"): (Index(("isUsed", "createdAt")), _HASH, _CLAIM),
        collection_name(provider, "bindings"): (
            Index(("proxyId", "isActive")),
            Index((key,)),
            Index(("proxyId", key), unique="any"),
        ),
    }


def layout(providers: Iterable[str]) -> Layout:
    """All collections.

    Raises:
        StoreUnusable: two of them would have one name.
    """
    found = dict(SHARED)
    for provider in providers:
        own = of_provider(provider)
        if taken := found.keys() & own.keys():
            raise StoreUnusable(
                f"no provider can be called {provider!r} here: "
                f"the collection {min(taken)} is something else's"
            )
        found |= own
    return found
