"""What every store promises about claims."""

import asyncio

import pytest

from keymux.stores.port import Store
from tests.contract.places import Place, opened

pytestmark = pytest.mark.anyio

SCOPE = "acme/key_1/sonnet"
LONG_S, SHORT_S = 60.0, 0.3


async def test_one_owner_holds_a_scope(store: Store) -> None:
    """While one holds it, another is refused."""
    assert await store.claims.claim(SCOPE, "first", LONG_S)
    assert not await store.claims.claim(SCOPE, "second", LONG_S)


async def test_scopes_are_held_apart(store: Store) -> None:
    """Who is refused one scope may hold another."""
    assert await store.claims.claim(SCOPE, "first", LONG_S)
    assert await store.claims.claim("acme/key_2/sonnet", "second", LONG_S)


async def test_a_claim_ends_by_itself(store: Store) -> None:
    """When its time is over, somebody else can hold the scope, and the first one no more."""
    assert await store.claims.claim(SCOPE, "first", SHORT_S)
    await asyncio.sleep(SHORT_S + 0.1)

    assert await store.claims.claim(SCOPE, "second", LONG_S)
    assert not await store.claims.claim(SCOPE, "first", LONG_S)


async def test_the_holder_may_renew(store: Store) -> None:
    """From then on it holds the scope for the whole time anew."""
    assert await store.claims.claim(SCOPE, "first", SHORT_S)
    assert await store.claims.claim(SCOPE, "first", LONG_S)
    await asyncio.sleep(SHORT_S + 0.1)

    assert not await store.claims.claim(SCOPE, "second", LONG_S)


@pytest.mark.parametrize(
    "held", [pytest.param(True, id="after one that has ended"), pytest.param(False, id="the first")]
)
async def test_of_many_at_once_one_is_granted(place: Place, held: bool) -> None:  # noqa: FBT001 -- a parameter
    """However many processes ask at the same moment, exactly one may."""
    stores = [place.open() for _ in range(6)]
    await stores[0].prepare([])
    if held:
        await stores[0].claims.claim(SCOPE, "before", 0.001)
        await asyncio.sleep(0.05)
    asked = [store.claims.claim(SCOPE, f"p{n}", LONG_S) for n, store in enumerate(stores)]
    granted = await asyncio.gather(*asked)
    for store in stores:
        await store.close()

    assert granted.count(True) == 1


async def test_names_are_taken_as_they_are(store: Store) -> None:
    """Whatever a model or an owner is called means itself."""
    for name in ("$until", "a'b", "x/y z", "ü"):
        assert await store.claims.claim(f"acme/{name}", name, LONG_S)
        assert not await store.claims.claim(f"acme/{name}", "another", LONG_S)


async def test_claims_outlast_a_connection(place: Place) -> None:
    """A claim is the database's, not the connection's."""
    async with opened(place) as store:
        await store.prepare([])
        await store.claims.claim(SCOPE, "first", LONG_S)
    async with opened(place) as store:
        assert not await store.claims.claim(SCOPE, "second", LONG_S)
