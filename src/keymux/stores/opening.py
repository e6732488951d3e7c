"""Which store a config names, and with which key ring its secrets are sealed."""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from keymux.settings import Settings
from keymux.stores.moving import Target
from keymux.stores.port import Store
from keymux.stores.sealing.port import Answers, Secrets
from keymux.stores.sealing.ring_file import source_of
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import SqliteStore


class SealedStore(Store, Protocol):
    """A store, and its secrets as they are stored."""

    @property
    def vault(self) -> Vault:
        """What seals and opens them."""

    @property
    def answers(self) -> Answers:
        """What proves the key ring."""

    @property
    def secrets(self) -> Secrets:
        """The secrets."""

    @property
    def everything(self) -> Target:
        """All records, for another store."""


def open_store(
    settings: Settings, tell: Callable[[str], None], *, may_make_ring: bool = True
) -> SealedStore:
    """A store; nothing is opened yet.

    Args:
        settings: name it.
        tell: told of what is wrong with some of the records there, in sentences.
        may_make_ring: whether a new store gets a key ring by itself.
    """
    vault = Vault(
        source_of(settings.key_ring), plain=settings.secrets.plain, may_make=may_make_ring
    )
    if settings.database is not None:
        return SqliteStore(settings.database, vault=vault, tell=tell)
    # the driver takes 14 MB and 0.15 s, which is not asked of those who do without
    mongo = import_module("keymux.stores.mongo")
    return cast("SealedStore", mongo.MongoStore(settings.store, tell, vault=vault))
