"""What a store with a key ring promises of the passwords of egress proxies."""

import pytest
from msgspec.structs import replace

from keymux.core.egress import ExitState, Observation, ProxyAddress, ProxyType
from keymux.stores.sealing.resealing import reseal, tally
from keymux.stores.sealing.rotating import Rotation, Step
from keymux.stores.sealing.vault import key_id_of
from tests.contract.records import ACME, OPERATOR, binding, key, proxy
from tests.stores.sealing.places import SealedPlace, opened, unsealed

pytestmark = pytest.mark.anyio

PROXIES = "proxies"
OPEN = proxy("p3", address=ProxyAddress(ProxyType.HTTP, "open.example", 3128))


def _untold(collection: str, done: int, total: int) -> None:
    assert collection == PROXIES
    assert done <= total


async def _with_proxies(place: SealedPlace) -> None:
    async with opened(place) as store:
        await store.proxies.add([proxy("p1"), proxy("p2"), OPEN], OPERATOR)


async def _legacy(place: SealedPlace) -> None:
    async with unsealed(place) as store:
        await store.proxies.add([proxy("p1"), proxy("p2"), OPEN], OPERATOR)


async def test_passwords_are_sealed_and_opened(place: SealedPlace) -> None:
    """One that is empty stays empty."""
    await _with_proxies(place)
    async with opened(place) as store:
        assert await store.proxies.load() == [proxy("p1"), proxy("p2"), OPEN]
        assert await store.proxies.find_some(["p2"]) == [proxy("p2")]

    stored = place.stored(PROXIES, "password")
    assert stored["p3"] == ""
    assert key_id_of(stored["p1"]) not in {"", "?"}
    assert b"pass-p" not in place.dump()


@pytest.mark.parametrize("spoil", ["tampered", "moved"])
async def test_a_password_that_cannot_be_opened(place: SealedPlace, spoil: str) -> None:
    """The proxy is named once and left out; the keys that are bound to it stay bound."""
    await _with_proxies(place)
    stored = place.stored(PROXIES, "password")
    broken = stored["p2"] if spoil == "moved" else stored["p1"][:-1] + "!"
    place.put(PROXIES, "p1", broken)
    async with opened(place) as store:
        await store.keys.add(ACME, [key("k1")], OPERATOR)
        await store.bindings.add(ACME, [binding("p1", "k1")], OPERATOR)
        loaded = [await store.proxies.load() for _ in range(2)]
        bound = await store.bindings.load(ACME)
        repaired = await store.bindings.repair(ACME, OPERATOR)
        broken_ones = [
            why for each in await tally(store.vault, store.secrets) for why in each.broken
        ]

    assert [[record.id for record in records] for records in loaded] == [["p2", "p3"]] * 2
    assert [record.key_id for record in bound] == ["k1"]
    assert (repaired.checked, repaired.without_proxy) == (1, 0)
    told = [text for text in place.told if "cannot be opened" in text]
    assert told == broken_ones
    assert told[0].startswith("proxies: 'p1' is left out: its password cannot be opened")


async def test_what_is_seen_of_a_proxy_needs_no_password(place: SealedPlace) -> None:
    """It is noted whether or not the password can be opened, and leaves it as it is."""
    await _with_proxies(place)
    broken = place.stored(PROXIES, "password")["p2"]
    place.put(PROXIES, "p1", broken)
    async with opened(place) as store:
        await store.proxies.observe("p1", Observation(5, {ACME: ExitState()}), "host:1")

    assert place.stored(PROXIES, "lastError")["p1"] == ""
    assert place.stored(PROXIES, "status")["p1"] == "healthy"
    assert place.stored(PROXIES, "password")["p1"] == broken


@pytest.mark.parametrize("writer", ["an operator", "a process"])
async def test_the_next_write_of_a_proxy_seals_it(place: SealedPlace, writer: str) -> None:
    """Legacy passwords are served until then; other proxies stay as they are."""
    await _legacy(place)
    async with opened(place) as store:
        before = await store.proxies.load()
        if writer == "an operator":
            await store.proxies.set_active("p1", active=False, actor=OPERATOR)
        else:
            await store.proxies.observe("p1", Observation(5, {ACME: ExitState()}), "host:1")
        stored = place.stored(PROXIES, "password")
        after = await store.proxies.load()

    assert before == [proxy("p1"), proxy("p2"), OPEN]
    assert [key_id_of(stored[name]) != "" for name in ("p1", "p2", "p3")] == [True, False, False]
    assert [record.address for record in after] == [record.address for record in before]


async def test_all_legacy_passwords_can_be_sealed(place: SealedPlace) -> None:
    """Once; nothing of them is left in the store."""
    await _legacy(place)
    async with opened(place) as store:
        first = await reseal(store.vault, store.secrets, _untold)
        second = await reseal(store.vault, store.secrets, _untold)
        await store.secrets.wipe()
        dump = place.dump()
        (tallied,) = [
            one for one in await tally(store.vault, store.secrets) if one.collection == PROXIES
        ]
        loaded = await store.proxies.load()

    assert (first.changed, second.changed) == (2, 0)
    assert (sum(tallied.sealed.values()), tallied.plain) == (2, 0)
    assert b"pass-p" not in dump
    assert loaded == [proxy("p1"), proxy("p2"), OPEN]


async def test_a_rotation_covers_passwords(place: SealedPlace) -> None:
    """A key that one of them is sealed with stays until it is sealed anew."""
    await _with_proxies(place)
    async with opened(place) as store:
        rotation = Rotation(store.vault, place.ring, store.answers, OPERATOR)
        rotation.begin(Step.TURN)
        await store.prepare([ACME])
        await rotation.end(keep_old=False)
        between = place.ring.latest()
        await reseal(store.vault, store.secrets, _untold)
        rotation.begin(Step.FINISH)
        await rotation.end(keep_old=False)
        after = place.ring.latest()
        loaded = await store.proxies.load()

    assert between is not None
    assert after is not None
    assert (len(between.keys), len(after.keys)) == (2, 1)
    assert key_id_of(place.stored(PROXIES, "password")["p1"]) == after.current
    assert loaded == [proxy("p1"), proxy("p2"), OPEN]


async def test_a_known_address_is_known_whatever_its_password(place: SealedPlace) -> None:
    """The password counts for nothing."""
    await _with_proxies(place)
    twin = proxy("p4", address=replace(proxy("p1").address, password="other"))
    async with opened(place) as store:
        assert await store.proxies.add([twin], OPERATOR) == []
