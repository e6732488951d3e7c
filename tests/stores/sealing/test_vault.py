"""Sealing and opening: known vectors, and everything that must not open."""

import os
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.sealing.ring import KeyRing, new_ring
from keymux.stores.sealing.ring_file import GivenRing, RingFile
from keymux.stores.sealing.vault import CannotOpen, Place, Vault, is_sealed, key_id_of

SECRET = "sk-acme-0123456789"
KEY = bytes(range(32))
RING = KeyRing("k1", {"k1": KEY})
HERE = Place("acme_keys", "key_1", "apiKey")


def _vault(ring: KeyRing = RING, *, plain: bool = False) -> Vault:
    return Vault(GivenRing(ring.text()), plain=plain)


def _vector(place: bytes, nonce: bytes = b"123456789012") -> str:
    sealed = AESGCM(KEY).encrypt(nonce, SECRET.encode(), place)
    return f"v1:k1:{_text(nonce)}:{_text(sealed)}"


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


# -- what is stored ------------------------------------------------------------------------------
def test_a_seal_made_elsewhere_opens() -> None:
    """The form is v1, key id, nonce and ciphertext; the place is authenticated with it."""
    stored = "v1:k1:MTIzNDU2Nzg5MDEy:J1oLbo0pnbZZFzpE9RK2UWcJc9y0DJ8ZHKZm78uBTjnNnA"

    assert _vector(b"acme_keys/key_1/apiKey") == stored
    assert _vault().open(HERE, stored) == SECRET


def test_what_is_sealed_opens_in_its_place() -> None:
    """Each time with another nonce, so that nobody sees that two secrets are the same."""
    vault = _vault()
    one, other = vault.seal(HERE, SECRET), vault.seal(HERE, SECRET)

    assert one != other
    assert one.split(":")[2] != other.split(":")[2]
    assert [vault.open(HERE, stored) for stored in (one, other)] == [SECRET, SECRET]
    assert SECRET not in one


@pytest.mark.parametrize("text", ["", "ключ", "v1:k1:x:y", "s" * 4096])
def test_any_text_may_be_sealed(text: str) -> None:
    """Also one that looks like a seal; an empty one stays empty."""
    stored = _vault().seal(HERE, text)

    assert is_sealed(stored) == bool(text)
    assert _vault().open(HERE, stored) == text


# -- what does not open --------------------------------------------------------------------------
def test_no_byte_of_a_seal_may_change() -> None:
    """Whatever byte is changed, nothing opens, and nothing is taken for a legacy secret."""
    vault = _vault()
    stored = vault.seal(HERE, SECRET)
    for place, letter in enumerate(stored):
        for other in {"A", "B", "-", ":", "é", chr(ord(letter) ^ 1)} - {letter}:
            with pytest.raises(CannotOpen):
                vault.open(HERE, stored[:place] + other + stored[place + 1 :])


@pytest.mark.parametrize("length", range(1, 60))
def test_no_seal_may_be_cut_off(length: int) -> None:
    """As a column that is too short would do."""
    stored = _vector(str(HERE).encode())

    with pytest.raises(CannotOpen):
        _vault().open(HERE, stored[: max(3, len(stored) - length)])


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(Place("acme_keys", "key_2", "apiKey"), id="another record"),
        pytest.param(Place("acme_backup_keys", "key_1", "apiKey"), id="another collection"),
        pytest.param(Place("other_keys", "key_1", "apiKey"), id="another provider"),
        pytest.param(Place("acme_keys", "key_1", "password"), id="another field"),
    ],
)
def test_a_seal_opens_nowhere_else(there: Place) -> None:
    """Who may write to the store cannot let one record use the secret of another."""
    stored = _vault().seal(HERE, SECRET)

    with pytest.raises(CannotOpen, match=f"{there.collection}: '{there.id}'"):
        _vault().open(there, stored)


def test_another_key_by_the_same_name_opens_nothing() -> None:
    """The message names the record and nothing of the secret."""
    other = KeyRing("k1", {"k1": bytes(32)})
    stored = _vault().seal(HERE, SECRET)

    with pytest.raises(CannotOpen, match="key_1") as caught:
        _vault(other).open(HERE, stored)
    assert stored[12:] not in str(caught.value)


def test_a_key_that_the_ring_lacks_is_named() -> None:
    """So that an operator knows which ring to look for."""
    stored = _vault().seal(HERE, SECRET)

    with pytest.raises(CannotOpen, match="the key k1, which the ring lacks"):
        _vault(new_ring()).open(HERE, stored)


def test_without_a_ring_nothing_opens() -> None:
    """A sealed secret is never handed on as it is."""
    with pytest.raises(CannotOpen):
        Vault(None).open(HERE, _vault().seal(HERE, SECRET))


# -- legacy secrets ------------------------------------------------------------------------------
@pytest.mark.parametrize("stored", [SECRET, "", "a:b:c:d", "v2", "sk:with:colons"])
def test_a_legacy_secret_is_given_back_as_it_is(stored: str) -> None:
    """From a time, or a program, that seals nothing."""
    assert _vault().open(HERE, stored) == stored
    assert key_id_of(stored) == ""


def test_the_next_write_seals_a_legacy_secret() -> None:
    """One that is sealed stays as it is."""
    vault = _vault()
    stored = vault.resealed(HERE, SECRET)

    assert vault.open(HERE, stored) == SECRET
    assert key_id_of(stored) == "k1"
    assert vault.resealed(HERE, stored) == stored


def test_a_legacy_secret_stays_where_there_is_no_ring(tmp_path: Path) -> None:
    """A write that is about something else must not fail for that."""
    assert Vault(RingFile(tmp_path / "none.json")).resealed(HERE, SECRET) == SECRET


# -- plain by choice -----------------------------------------------------------------------------
def test_secrets_are_stored_in_plain_where_the_config_says_so() -> None:
    """What was sealed before still opens."""
    sealed = _vault().seal(HERE, SECRET)
    vault = _vault(plain=True)

    assert vault.seal(HERE, SECRET) == SECRET
    assert vault.open(HERE, sealed) == SECRET


def test_what_looks_sealed_is_not_stored_in_plain() -> None:
    """Nobody could tell it from a seal that was broken."""
    with pytest.raises(StoreUnusable, match="in plain"):
        _vault(plain=True).seal(HERE, "v1:mine")


# -- while it runs -------------------------------------------------------------------------------
def test_a_running_vault_learns_a_new_ring(tmp_path: Path) -> None:
    """It opens what others seal with the new key, and seals with that key itself."""
    file = RingFile(tmp_path / "ring.json")
    ring = file.make(new_ring())
    vault, other = Vault(RingFile(file.path)), Vault(RingFile(file.path))
    before = vault.seal(HERE, SECRET)
    turned = ring.with_next().turned()
    file.replace(turned)
    after = other.seal(HERE, SECRET)

    assert vault.open(HERE, after) == SECRET
    assert vault.open(HERE, before) == SECRET
    assert key_id_of(vault.seal(HERE, SECRET)) == turned.current


def test_a_vault_does_not_seal_without_seeing_the_ring(tmp_path: Path) -> None:
    """The key it remembers may be on its way out; what it has opened, it still opens."""
    file = RingFile(tmp_path / "ring.json")
    file.make(new_ring())
    vault = Vault(file)
    stored = vault.seal(HERE, SECRET)
    opened = vault.open(HERE, stored)
    file.path.unlink()

    with pytest.raises(StoreUnavailable, match="is not there"):
        vault.seal(HERE, SECRET)
    assert opened == SECRET


def test_a_ring_that_others_can_read_seals_nothing(tmp_path: Path) -> None:
    """Nor does it open what the vault has not opened before."""
    file = RingFile(tmp_path / "ring.json")
    file.make(new_ring())
    stored = Vault(file).seal(HERE, SECRET)
    os.chmod(file.path, 0o644)  # noqa: PTH101 -- what is refused
    vault = Vault(RingFile(file.path))

    with pytest.raises(StoreUnusable, match="chmod 600"):
        vault.seal(HERE, SECRET)
    with pytest.raises(CannotOpen, match="chmod 600"):
        vault.open(HERE, stored)
