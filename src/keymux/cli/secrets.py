"""``keymux secrets``: how the secrets in the store are sealed, and with which keys."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated

import typer
from msgspec import Struct

from keymux.cli import options
from keymux.cli.place import Place
from keymux.cli.progress import progress
from keymux.cli.saying import FAILED, MISUSED, fail, note, say, say_json
from keymux.stores.opening import SealedStore
from keymux.stores.sealing.resealing import Tally, reseal, tally
from keymux.stores.sealing.ring import BadRing, KeyRing, new_ring
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.rotating import Rotation, Step
from keymux.stores.sealing.unlocking import unlock

app = options.group("Seal the secrets in the store, and look after the key ring.")


@app.command("init", epilog="Example: keymux secrets init")
def init(
    *,
    print_one: Annotated[
        bool, typer.Option("--print", help="Print a new key ring for the environment; no file.")
    ] = False,
    config: options.Config = options.DEFAULT_CONFIG,
) -> None:
    """Make the key ring, if there is none and the store has no sealed secrets."""
    if print_one:
        say(" ".join(new_ring().text().split()))
        return
    place = Place(config)
    ring = place.use(_ring, create=True)
    say(f"{place.settings.key_ring_shown}: the current key is {ring.current}")


async def _ring(store: SealedStore) -> KeyRing:
    ring = store.vault.ring()
    if ring is None:
        fail("no key ring was made: $.secrets.plain in the config says that none is wanted")
    return ring


class Status(Struct, frozen=True, rename="camel"):
    """How the secrets of a store are sealed."""

    key_ring: str
    current: str
    keys: tuple[str, ...]
    plain: bool
    collections: list[Tally]


@app.command("status", epilog="Example: keymux secrets status")
def status(
    *, config: options.Config = options.DEFAULT_CONFIG, as_json: options.Json = False
) -> None:
    """Say with which keys the secrets in the store are sealed; 1 if some cannot be opened."""
    place = Place(config)

    async def work(store: SealedStore) -> Status:
        ring = store.vault.ring()
        return Status(
            place.settings.key_ring_shown,
            ring.current if ring else "",
            tuple(ring.keys) if ring else (),
            store.vault.is_plain,
            await tally(store.vault, store.secrets),
        )

    found = place.use(work)
    if as_json:
        say_json(found)
    else:
        _say_status(found)
    broken = [why for each in found.collections for why in each.broken]
    if broken:
        fail(*broken, code=FAILED)


def _say_status(found: Status) -> None:
    if found.current:
        others = [kid for kid in found.keys if kid != found.current]
        also = f", and {', '.join(others)}" if others else ""
        say(f"{found.key_ring}: the current key is {found.current}{also}")
    else:
        say(f"{found.key_ring}: there is none")
    for each in found.collections:
        parts = [f"{count} sealed with {kid}" for kid, count in sorted(each.sealed.items())]
        if each.plain:
            parts.append(f"{each.plain} in plain: `keymux secrets encrypt` seals them")
        say(f"{each.collection}: {', '.join(parts) or 'no secrets'}")


@app.command("encrypt", epilog="Example: keymux secrets encrypt")
def encrypt(*, config: options.Config = options.DEFAULT_CONFIG) -> None:
    """Seal all secrets with the current key, while the gateway runs; may be run again.

    Afterwards the database file is built anew, so that no earlier value is left in it.
    """
    place = _sealing_place(config)

    async def work(store: SealedStore) -> None:
        done = await _reseal(store)
        if done:
            await store.secrets.audit("secrets.encrypt", str(done), place.actor)
        await _wipe(store)

    place.use(work, create=True)


@app.command("rotate", epilog="Example: keymux secrets rotate")
def rotate(
    *,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Only add the next key, to bring the ring to other hosts."),
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Make no new key: finish the last rotation.")
    ] = False,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Leave keys that nothing uses in the ring.")
    ] = False,
    config: options.Config = options.DEFAULT_CONFIG,
) -> None:
    """Seal all secrets with a new key, while the gateway runs; may be run again.

    A rotation that was interrupted is finished first, and no other one is begun.
    """
    if prepare and (finish or keep_old):
        fail("--prepare goes with no other option", code=MISUSED)
    place = _sealing_place(config)
    ring_file = _ring_file(place)
    step = Step.PREPARE if prepare else Step.FINISH if finish else Step.TURN

    async def work(store: SealedStore) -> None:
        rotation = Rotation(store.vault, ring_file, store.answers, place.actor)
        begun = rotation.begin(step)
        note(begun)
        if step is Step.PREPARE:
            return
        await store.secrets.audit("secrets.rotate", step, place.actor)
        await unlock(store.vault, store.answers, store.secrets, note)
        await _reseal(store)
        await _wipe(store)
        for line in await rotation.end(keep_old=keep_old):
            say(line)

    with ExitStack() as held:
        try:
            held.enter_context(ring_file.alone())
            place.use(work)
        except BadRing as error:
            fail(f"{ring_file.where} {error}")


def _sealing_place(config: options.Config) -> Place:
    place = Place(config)
    if place.settings.secrets.plain:
        fail("$.secrets.plain in the config says that secrets are stored in plain: take it out")
    return place


def _ring_file(place: Place) -> RingFile:
    where = place.settings.key_ring
    if isinstance(where, str):
        fail(
            "the key ring is in the environment, where keymux cannot change it: add a key to it",
            "and make it the current one, restart, then run `keymux secrets encrypt`",
        )
    if not where.exists():
        fail(f"there is no key ring {where.absolute()}: make one with `keymux secrets init`")
    return RingFile(where)


async def _reseal(store: SealedStore) -> int:
    with ExitStack() as bars:
        told: dict[str, Callable[[int], None]] = {}

        def tell(collection: str, done: int, total: int) -> None:
            if collection not in told:
                told[collection] = bars.enter_context(progress(f"sealing {collection}", total))
            told[collection](done)

        result = await reseal(store.vault, store.secrets, tell)
    for why in result.broken:
        note(why)
    if result.broken:
        fail(f"{result.changed} secrets were sealed; those above were left as they are")
    say(f"{result.changed} secrets were sealed" if result.changed else "all secrets are sealed")
    return result.changed


async def _wipe(store: SealedStore) -> None:
    if left := await store.secrets.wipe():
        note(f"earlier values may still be in {left}")
