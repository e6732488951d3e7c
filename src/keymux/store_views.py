"""The store as the parts of a worker want it.

Every secret that passes is learned by the redactor, which takes it out of whatever is logged.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from keymux.core.egress import BindingRecord, Observation, ProxyRecord
from keymux.core.records import KeyRecord, ProviderState
from keymux.stores.port import Store, StoreUnavailable, StoreUnusable
from keymux.telemetry.redaction import Redactor

TROUBLES: tuple[type[Exception], ...] = (StoreUnavailable, StoreUnusable)


class ClaimsView:
    """The store's claims, as those who ask for them want to hear: see `pools.permits.Claims`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        """Hold a scope alone from now on; False while another owner does, None if it is away."""
        try:
            return await self._store.claims.claim(scope, owner, seconds)
        except TROUBLES:
            return None


class KeyView:
    """The store as the keeper of keys needs it: see `pools.keeping.KeyStore`."""

    troubles: ClassVar[tuple[type[Exception], ...]] = TROUBLES

    def __init__(self, store: Store, actor: str, redactor: Redactor) -> None:
        self._store = store
        self._actor = actor
        self._redactor = redactor

    async def load_keys(self, provider: str) -> Sequence[KeyRecord]:
        """All upstream keys of a provider."""
        records = await self._store.keys.load(provider)
        self._redactor.learn(record.secret for record in records)
        return records

    async def find_keys(self, provider: str, key_ids: Collection[str]) -> Sequence[KeyRecord]:
        """Some of them."""
        records = await self._store.keys.find_some(provider, key_ids)
        self._redactor.learn(record.secret for record in records)
        return records

    async def provider_state(self, provider: str) -> ProviderState:
        """Health of the provider."""
        return await self._store.provider_state(provider)

    async def promote(self, provider: str, dead_key: str, at: int) -> str | None:
        """Let a backup key take over, once; gives its id."""
        return await self._store.backups.promote(provider, dead_key, at=at, actor=self._actor)


class EgressView:
    """The store as the keeper of exits needs it: see `pools.egress_keeping.EgressStore`."""

    troubles: ClassVar[tuple[type[Exception], ...]] = TROUBLES

    def __init__(self, store: Store, actor: str, redactor: Redactor) -> None:
        self._store = store
        self._actor = actor
        self._redactor = redactor

    async def proxies(self, ids: Collection[str] | None) -> Sequence[ProxyRecord]:
        """Some proxies, None for all."""
        proxies = self._store.proxies
        records = await (proxies.load() if ids is None else proxies.find_some(ids))
        self._redactor.learn(record.address.password for record in records)
        return records

    async def bindings(
        self, provider: str, keys: Collection[str] | None
    ) -> Sequence[BindingRecord]:
        """The bindings of some keys, None for all."""
        bindings = self._store.bindings
        if keys is None:
            return await bindings.load(provider)
        return await bindings.of_keys(provider, keys)

    async def observe(self, proxy_id: str, seen: Observation) -> None:
        """Remember what was found out."""
        await self._store.proxies.observe(proxy_id, seen, self._actor)
