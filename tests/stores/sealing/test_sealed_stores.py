"""What a store with a key ring promises, whichever kind of store it is."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from keymux.core.health import Event
from keymux.core.secrets import hash_of
from keymux.stores.port import Batch, StoreUnavailable, StoreUnusable
from keymux.stores.sealing.port import Answers, Change, Secrets
from keymux.stores.sealing.resealing import reseal, tally
from keymux.stores.sealing.ring import new_ring
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.rotating import Rotation, Step
from keymux.stores.sealing.unlocking import unlock
from keymux.stores.sealing.vault import Vault, key_id_of
from tests.contract.records import ACME, OPERATOR, cooling, key, spare, transition
from tests.stores.sealing.places import SealedPlace, opened, unsealed

pytestmark = pytest.mark.anyio

KEYS, SPARES = "acme_keys", "acme_backup_keys"


def _untold(collection: str, done: int, total: int) -> None:
    assert collection
    assert done <= total


async def _with_keys(place: SealedPlace) -> None:
    async with opened(place) as store:
        await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
        await store.backups.add(ACME, [spare("b1")], OPERATOR)


async def _legacy(place: SealedPlace) -> None:
    async with unsealed(place) as store:
        await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
        await store.backups.add(ACME, [spare("b1")], OPERATOR)


# -- reading and writing -------------------------------------------------------------------------
async def test_what_is_added_is_sealed_and_opens(place: SealedPlace) -> None:
    """Keys and backup keys; the hash by which a secret is found again stays."""
    await _with_keys(place)
    async with opened(place) as store:
        keys, spares = await store.keys.load(ACME), await store.backups.load(ACME)
        found = await store.keys.find(ACME, "k1")

    assert [record.secret for record in keys] == ["secret-k1", "secret-k2"]
    assert [record.secret for record in spares] == ["secret-b1"]
    assert found == keys[0]
    assert b"secret-" not in place.dump()
    assert place.stored(KEYS, "keyHash")["k1"] == hash_of("secret-k1")


async def test_a_known_secret_is_still_known(place: SealedPlace) -> None:
    """Sealed twice it looks different, but it is found by its hash."""
    await _with_keys(place)
    async with opened(place) as store:
        again = [key("k3", secret="secret-k1"), key("k4", secret="secret-b1")]

        assert await store.keys.add(ACME, again[:1], OPERATOR) == []
        assert await store.backups.add(ACME, [spare("b2"), spare("k2")], OPERATOR) == ["b2"]


async def test_a_promoted_secret_is_sealed_for_its_new_place(place: SealedPlace) -> None:
    """A copy of the ciphertext would open nowhere."""
    await _with_keys(place)
    async with opened(place) as store:
        assert await store.backups.promote(ACME, "k1", at=1, actor="me") == "b1"
        fresh = await store.keys.find(ACME, "b1")
        await store.backups.restore(ACME, "b1", OPERATOR)
        (back,) = await store.backups.load(ACME)

    assert fresh is not None
    assert (fresh.secret, back.secret) == ("secret-b1", "secret-b1")


@pytest.mark.parametrize("spoil", ["tampered", "moved"])
async def test_a_broken_secret_is_left_out_and_named(place: SealedPlace, spoil: str) -> None:
    """Once, with its collection and id; the other keys are served."""
    await _with_keys(place)
    stored = place.stored(KEYS)
    place.put(KEYS, "k1", stored["k2"] if spoil == "moved" else stored["k1"][:-1] + "!")
    async with opened(place) as store:
        loaded = [await store.keys.load(ACME) for _ in range(2)]
        found = await store.keys.find(ACME, "k1")
        broken = [why for each in await tally(store.vault, store.secrets) for why in each.broken]

    assert [[record.id for record in records] for records in loaded] == [["k2"], ["k2"]]
    assert found is None
    told = [text for text in place.told if "cannot be opened" in text]
    assert told == broken
    assert told[0].startswith("acme_keys: 'k1' is left out")


async def test_a_spare_that_cannot_be_opened_is_not_promoted(place: SealedPlace) -> None:
    """The next one takes over; the broken one stays for a person to look at."""
    await _with_keys(place)
    async with opened(place) as store:
        await store.backups.add(ACME, [spare("b2")], OPERATOR)
        place.put(SPARES, "b1", place.stored(SPARES)["b2"])

        assert await store.backups.promote(ACME, "k1", at=1, actor="me") == "b2"


# -- legacy secrets ------------------------------------------------------------------------------
async def test_legacy_secrets_are_served(place: SealedPlace) -> None:
    """Without any step before; the store gets its ring at the same time."""
    await _legacy(place)
    async with opened(place) as store:
        assert [record.secret for record in await store.keys.load(ACME)] == [
            "secret-k1",
            "secret-k2",
        ]
    assert place.ring.latest() is not None


@pytest.mark.parametrize("writer", ["an operator", "a process"])
async def test_the_next_write_of_a_record_seals_it(place: SealedPlace, writer: str) -> None:
    """Whatever it is about; other records stay as they are."""
    await _legacy(place)
    async with opened(place) as store:
        if writer == "an operator":
            await store.keys.change(ACME, "k1", Event.DISABLE, actor=OPERATOR, reason="")
        else:
            await store.ledger.write(Batch(transitions=(transition("t1", cooling(60)),)))
        stored = place.stored(KEYS)
        found = await store.keys.find(ACME, "k1")

    assert [key_id_of(stored[name]) != "" for name in ("k1", "k2")] == [True, False]
    assert found is not None
    assert found.secret == "secret-k1"


async def test_all_legacy_secrets_can_be_sealed(place: SealedPlace) -> None:
    """Once; the second time there is nothing to do. Nothing of them is left in the store."""
    await _legacy(place)
    async with opened(place) as store:
        first = await reseal(store.vault, store.secrets, _untold)
        second = await reseal(store.vault, store.secrets, _untold)
        await store.secrets.wipe()
        dump = place.dump()
        loaded = await store.keys.load(ACME)

    assert (first.changed, second.changed) == (3, 0)
    assert b"secret-" not in dump
    assert [record.secret for record in loaded] == ["secret-k1", "secret-k2"]


class _Meddled:
    """The secrets of a store; one of them is changed after it was read and before it is written."""

    def __init__(self, secrets: Secrets, meddle: Callable[[], None]) -> None:
        self._secrets = secrets
        self._meddle = meddle
        self._done = False
        self.collections, self.load = secrets.collections, secrets.load
        self.wipe, self.audit = secrets.wipe, secrets.audit
        self.passed_over = secrets.passed_over

    async def replace(self, changes: Sequence[Change]) -> int:
        """Somebody was faster."""
        if not self._done:
            self._done = True
            self._meddle()
        return await self._secrets.replace(changes)


async def test_a_change_made_meanwhile_is_not_lost(place: SealedPlace) -> None:
    """A secret that somebody replaced after it was read is read again, and sealed then."""
    await _legacy(place)
    async with opened(place) as store:
        meddled = _Meddled(store.secrets, lambda: place.put(KEYS, "k1", "secret-changed"))
        done = await reseal(store.vault, meddled, _untold)
        found = await store.keys.find(ACME, "k1")

    assert done.changed == 3
    assert found is not None
    assert found.secret == "secret-changed"
    assert key_id_of(place.stored(KEYS)["k1"]) != ""


# -- the ring has to fit -------------------------------------------------------------------------
async def test_a_new_store_makes_its_ring_and_says_so_once(place: SealedPlace) -> None:
    """Where it is, and what a backup without it is worth."""
    for _ in range(2):
        async with opened(place):
            pass

    (told,) = place.told
    assert told.startswith(f"made the key ring {place.ring.path}")
    assert "worthless" in told


async def test_who_only_looks_makes_no_ring(place: SealedPlace) -> None:
    """Nor can anything be added then: it would be in plain."""
    async with opened(place, may_make=False) as store:
        with pytest.raises(StoreUnavailable, match="keymux secrets init"):
            await store.keys.add(ACME, [key("k1")], OPERATOR)

    assert place.ring.latest() is None


async def test_a_store_with_sealed_secrets_never_gets_a_new_ring(place: SealedPlace) -> None:
    """It would open nothing; the message names the key that is missing."""
    await _with_keys(place)
    ring = place.ring.latest()
    assert ring is not None
    place.ring.path.unlink()

    with pytest.raises(StoreUnusable, match=f"sealed with the key {ring.current}: bring the ring"):
        async with opened(place):
            pass
    assert not place.ring.path.exists()


async def test_a_ring_of_another_store_is_refused(place: SealedPlace) -> None:
    """Before anything is sealed with it."""
    await _with_keys(place)
    place.ring.replace(new_ring())
    before = place.dump()

    with pytest.raises(StoreUnusable, match="lacks the key"):
        async with opened(place):
            pass
    assert place.dump() == before


async def test_a_wrong_key_by_the_right_name_is_refused(place: SealedPlace) -> None:
    """The known answer does not open."""
    await _with_keys(place)
    ring = place.ring.latest()
    assert ring is not None
    text = ring.text().replace(ring.text().split('"')[9][:8], "AAAAAAAA")
    place.ring.path.write_text(text)

    with pytest.raises(StoreUnusable, match="wrong key"):
        async with opened(place):
            pass


@pytest.mark.parametrize("ring", ["missing", "another"])
async def test_a_sealed_store_is_refused_without_its_known_answers(
    place: SealedPlace, ring: str
) -> None:
    """If somebody copied the keys alone, no other ring may be taken either."""
    await _with_keys(place)
    kid = key_id_of(place.stored(KEYS)["k2"])
    place.forget_answers()
    if ring == "another":
        place.ring.replace(new_ring())
    else:
        place.ring.path.unlink()

    with pytest.raises(StoreUnusable, match=kid):
        async with opened(place):
            pass


async def test_a_key_in_use_cannot_be_retired(place: SealedPlace) -> None:
    """Its known answer stays as long as one secret is sealed with it."""
    await _with_keys(place)
    async with opened(place) as store:
        (kid,) = await store.answers.load()

        assert not await store.answers.remove(kid, OPERATOR)
        assert set(await store.answers.load()) == {kid}


async def test_two_first_starts_at_once_agree_on_one_ring(place: SealedPlace) -> None:
    """On one host: the file is made once, and both seal with it."""

    async def start(name: str) -> None:
        async with opened(place) as store:
            await store.keys.add(ACME, [key(name)], OPERATOR)

    async with unsealed(place):
        pass
    await asyncio.gather(*(start(f"k{number}") for number in range(4)))
    async with opened(place) as store:
        assert len(await store.keys.load(ACME)) == 4


class _Late:
    """The known answers of a store that another host takes up between two steps of ours."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._looked = False

    async def load(self) -> dict[str, str]:
        """None at first."""
        if self._looked:
            return await self._answers.load()
        self._looked = True
        return {}

    async def add(self, kid: str, answer: str, *, is_first: bool, actor: str) -> bool:
        """The other one was faster."""
        await self._answers.add("k0", "theirs", is_first=True, actor="")
        return await self._answers.add(kid, answer, is_first=is_first, actor=actor)

    async def remove(self, kid: str, actor: str) -> bool:
        """As it is."""
        return await self._answers.remove(kid, actor)


async def test_of_two_hosts_at_their_first_start_one_is_refused(place: SealedPlace) -> None:
    """Their rings are different files; the one that came too late is taken back."""
    vault = Vault(RingFile(place.ring.path), may_make=True)
    async with unsealed(place) as store:
        with pytest.raises(StoreUnusable, match="lacks the key k0"):
            await unlock(vault, _Late(store.answers), store.secrets, place.told.append)
        answers = await store.answers.load()

    assert answers == {"k0": "theirs"}
    assert place.ring.latest() is None
    assert place.told == []


async def test_plain_by_choice_warns_at_each_start(place: SealedPlace) -> None:
    """And seals nothing."""
    for _ in range(2):
        store = place.store(Vault(RingFile(place.ring.path), plain=True, may_make=True))
        await store.prepare([ACME])
        await store.keys.add(ACME, [key("k1")], OPERATOR)
        await store.close()

    assert place.stored(KEYS) == {"k1": "secret-k1"}
    assert [text.startswith("new secrets are stored in plain") for text in place.told] == [True] * 2
    assert place.ring.latest() is None


# -- rotation ------------------------------------------------------------------------------------
async def test_a_rotation_is_seen_by_who_is_running(place: SealedPlace) -> None:
    """A server that began before opens what was sealed anew, and seals with the new key."""
    await _with_keys(place)
    async with opened(place) as server, opened(place) as operator:
        await server.keys.load(ACME)
        rotation = Rotation(operator.vault, place.ring, operator.answers, OPERATOR)
        rotation.begin(Step.TURN)
        await operator.prepare([ACME])
        await reseal(operator.vault, operator.secrets, _untold)
        said = await rotation.end(keep_old=False)
        await server.keys.add(ACME, [key("k3")], "server")
        loaded = await server.keys.load(ACME)
        answers = await server.answers.load()

    ring = place.ring.latest()
    assert ring is not None
    assert [record.secret for record in loaded] == ["secret-k1", "secret-k2", "secret-k3"]
    assert {key_id_of(value) for value in place.stored(KEYS).values()} == {ring.current}
    assert set(answers) == set(ring.keys) == {ring.current}
    assert "no longer in the key ring" in said[0]


async def test_a_key_that_is_used_stays_in_the_ring(place: SealedPlace) -> None:
    """Also if its seal came after everything was sealed anew; the rotation is not over then."""
    await _with_keys(place)
    async with opened(place) as store:
        old = place.stored(KEYS)["k1"]
        rotation = Rotation(store.vault, place.ring, store.answers, OPERATOR)
        rotation.begin(Step.TURN)
        await store.prepare([ACME])
        await reseal(store.vault, store.secrets, _untold)
        place.put(KEYS, "k1", old)
        await rotation.end(keep_old=False)
        between = place.ring.latest()
        again = rotation.begin(Step.TURN)
        await reseal(store.vault, store.secrets, _untold)
        await rotation.end(keep_old=False)
        after = place.ring.latest()

    assert between is not None
    assert after is not None
    assert (len(between.keys), between.rotating) == (2, True)
    assert again.startswith("finishing the rotation")
    assert (list(after.keys), after.rotating) == ([between.current], False)


async def test_the_next_key_can_be_brought_to_other_hosts_first(place: SealedPlace) -> None:
    """It is in the ring and seals nothing until the rotation."""
    await _with_keys(place)
    async with opened(place) as store:
        rotation = Rotation(store.vault, place.ring, store.answers, OPERATOR)
        before = place.ring.latest()
        rotation.begin(Step.PREPARE)
        ready = place.ring.latest()
        await store.keys.add(ACME, [key("k3")], OPERATOR)
        rotation.begin(Step.TURN)
        turned = place.ring.latest()

    assert before is not None
    assert ready is not None
    assert turned is not None
    assert key_id_of(place.stored(KEYS)["k3"]) == before.current
    assert turned.current == ready.next
    assert turned.keys == ready.keys


async def test_old_keys_may_stay(place: SealedPlace) -> None:
    """For hosts that have not seen the new ring yet; a later rotation lets them go."""
    await _with_keys(place)
    async with opened(place) as store:
        rotation = Rotation(store.vault, place.ring, store.answers, OPERATOR)
        rotation.begin(Step.TURN)
        await reseal(store.vault, store.secrets, _untold)
        await rotation.end(keep_old=True)
        kept = place.ring.latest()
        rotation.begin(Step.FINISH)
        await rotation.end(keep_old=False)
        done = place.ring.latest()

    assert kept is not None
    assert done is not None
    assert (len(kept.keys), kept.rotating) == (2, False)
    assert list(done.keys) == [kept.current]
