"""What is checked before a store is used: that its ring is there, and is the right one.

A new store gets a ring by itself. One that holds sealed secrets never does: another ring would
open none of them, and the loss would show one key at a time.
"""

from collections.abc import Callable

from keymux.stores.port import StoreUnusable
from keymux.stores.sealing.port import Answers, Secrets
from keymux.stores.sealing.ring import KeyRing
from keymux.stores.sealing.vault import CannotOpen, Place, Vault, key_id_of

_ANSWER = "keymux: this is the right key"
_PLAIN = (
    "new secrets are stored in plain, as $.secrets.plain in the config says: "
    "whoever reads the store or a backup has them"
)


async def unlock(
    vault: Vault,
    answers: Answers,
    secrets: Secrets,
    tell: Callable[[str], None],
    *,
    may_write: bool = True,
) -> None:
    """Check the ring against the store; a new store gets one if the vault may make it.

    Args:
        vault: with the ring.
        answers: of the store.
        secrets: of the store.
        tell: told of what operators should know, in sentences.
        may_write: whether the store may be told that a key is used from now on.

    Raises:
        StoreUnusable: the ring is missing, is another store's, or lacks a key.
    """
    if vault.source is None:
        return
    if vault.is_plain:
        tell(_PLAIN)
    ring, known = vault.ring(), await answers.load()
    used = set(known) or await key_ids(secrets)
    if ring is None:
        _refuse_missing(vault, used)
        if vault.may_make and not vault.is_plain:
            await _make(vault, answers, tell)
        return
    _refuse_lacking(vault, ring, used)
    for kid, answer in known.items():
        _check(vault, kid, answer)
    if may_write and ring.current not in known and not vault.is_plain:
        await _take_up(vault, ring, answers, is_first=not known)


async def key_ids(secrets: Secrets) -> set[str]:
    """The ids of all keys that secrets are sealed with."""
    found = {
        key_id_of(secret.stored)
        for collection in await secrets.collections()
        for secret in await secrets.load(collection)
    }
    return found - {"", "?"}


def _refuse_missing(vault: Vault, used: set[str]) -> None:
    if used and vault.source:
        raise StoreUnusable(
            f"{vault.source.where} is not there, and secrets are sealed with {_named(used)}: "
            "bring the ring that was used here before; without it they are lost"
        )


def _refuse_lacking(vault: Vault, ring: KeyRing, used: set[str]) -> None:
    lacking = used - ring.keys.keys()
    if lacking and vault.source:
        raise StoreUnusable(
            f"{vault.source.where} lacks {_named(lacking)}, with which secrets of this store are "
            "sealed: bring the ring that was used here before"
        )


def _check(vault: Vault, kid: str, answer: str) -> None:
    try:
        is_right = vault.open(_place(kid), answer) == _ANSWER
    except CannotOpen:
        is_right = False
    if not is_right and vault.source:
        raise StoreUnusable(
            f"{vault.source.where} has a wrong key {kid}: it does not open what this store has "
            "sealed with it"
        )


async def _make(vault: Vault, answers: Answers, tell: Callable[[str], None]) -> None:
    ring, is_mine = vault.make_ring()
    try:
        await _take_up(vault, ring, answers, is_first=True)
    except StoreUnusable:
        if is_mine:
            vault.take_back(ring)
        raise
    if is_mine and vault.source:
        tell(
            f"made {vault.source.where}: secrets in the store are sealed with it. Keep a copy of "
            "it apart from the backups of the store: without it they are worthless"
        )


async def _take_up(vault: Vault, ring: KeyRing, answers: Answers, *, is_first: bool) -> None:
    """Note that secrets may be sealed with the current key from now on."""
    answer = vault.seal(_place(ring.current), _ANSWER)
    if await answers.add(key_id_of(answer), answer, is_first=is_first, actor=""):
        return
    used = set(await answers.load())
    _refuse_lacking(vault, ring, used)


def _place(kid: str) -> Place:
    return Place("keymux_meta", kid, "answer")


def _named(kids: set[str]) -> str:
    return f"the key{'s' if len(kids) > 1 else ''} {', '.join(sorted(kids))}"
