"""Find out whether providers can be reached through egress proxies, and store what was found."""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from keymux.cli.moments import now_ms
from keymux.cli.progress import progress
from keymux.core.egress import ExitState, Observation, ProxyRecord, ProxyStatus, status_of
from keymux.core.health import Status
from keymux.stores.port import Store
from keymux.upstream.tunnel import Target, TunnelFailed, check

_AT_ONCE = 32
_REFUSED = (
    "the user or the password is wrong, or missing: remove it and add it again with the right ones"
)
_NOT_THERE = "is the proxy running, are type, host and port right, does a firewall let us out?"
_NOT_ON = (
    "the proxy is there, the provider beyond it is not: does it allow this host and port? "
    "For a certificate that is not trusted see ca_file of the provider"
)
_PROXY_ANSWERED = ("the provider", "answered CONNECT with")
"""Words of failures that a proxy which is there has told of."""

_BLOCKED = (
    "the provider refuses those who come this way, whatever a test says; "
    "`keymux proxies enable NAME` once that is settled"
)


class Tried(Struct, frozen=True):
    """What was found out about a provider through a proxy.

    Attributes:
        proxy: as it was before.
        provider: its name.
        state: as it is now.
        latency_ms: until the TLS handshake was over; None when there was none.
        finding: what went wrong, in words.
        advice: what to do about it.
    """

    proxy: ProxyRecord
    provider: str
    state: ExitState
    latency_ms: int | None = None
    finding: str = ""
    advice: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the provider was reached, and lets us in."""
        return self.latency_ms is not None and self.state.status is Status.HEALTHY

    @property
    def status(self) -> ProxyStatus:
        """How the provider can be reached through the proxy now."""
        return status_of([self.state])


class ProxyTrial:
    """Tests proxies.

    Args:
        targets: what is to be reached, by provider.
        timeout: seconds for one test.
        retry_s: for so long an exit that failed is left alone.
    """

    def __init__(self, targets: Mapping[str, Target], timeout: float, retry_s: float) -> None:
        self._targets = targets
        self._timeout = timeout
        self._retry_ms = round(retry_s * 1000)

    async def run(
        self,
        store: Store,
        records: Sequence[ProxyRecord],
        bound: Mapping[str, Mapping[str, int]],
        actor: str,
    ) -> list[Tried]:
        """Test proxies and store what was found; one row for each proxy and provider.

        Args:
            store: is told.
            records: the proxies.
            bound: by provider and proxy, how many keys are bound.
            actor: for the audit.
        """
        slots = asyncio.Semaphore(_AT_ONCE)
        with progress("testing", len(records)) as done:

            async def one(record: ProxyRecord) -> list[Tried]:
                names = [name for name in self._targets if bound[name].get(record.id)]
                async with slots:
                    tried = await self._try(record, names or list(self._targets))
                    await store.proxies.observe(record.id, _observation(tried), actor)
                done(1)
                return tried

            found = await asyncio.gather(*(one(record) for record in records))
        return [each for tried in found for each in tried]

    async def _try(self, record: ProxyRecord, providers: Sequence[str]) -> list[Tried]:
        """A proxy for some providers, one after the other; a target that they share once."""
        results: dict[Target, float | TunnelFailed] = {}
        tried = []
        for name in providers:
            target = self._targets[name]
            if target not in results:
                results[target] = await self._check(record, target)
            tried.append(self._tried(record, name, results[target]))
        return tried

    async def _check(self, record: ProxyRecord, target: Target) -> float | TunnelFailed:
        try:
            return await check(record.address, target, self._timeout)
        except TunnelFailed as failure:
            return failure

    def _tried(self, record: ProxyRecord, provider: str, result: float | TunnelFailed) -> Tried:
        before = record.exits.get(provider, ExitState())
        if isinstance(result, TunnelFailed):
            until = None if result.is_refusal else now_ms() + self._retry_ms
            state = after_failure(before, result.reason, until)
            return Tried(record, provider, state, None, result.reason, _advice(result))
        state = after_success(before)
        if state.status is Status.HEALTHY:
            return Tried(record, provider, state, round(result * 1000))
        return Tried(record, provider, state, round(result * 1000), state.reason, _BLOCKED)


def after_success(before: ExitState) -> ExitState:
    """How an exit is after the provider was reached; what the provider refuses it still refuses."""
    if before.status in {Status.HEALTHY, Status.QUARANTINED}:
        return before
    return ExitState(generation=before.generation + 1)


def after_failure(before: ExitState, reason: str, until: int | None) -> ExitState:
    """How an exit is after the provider was not reached.

    Args:
        before: how it was.
        reason: in words.
        until: when it is to be checked again; None when that is of no use before an operator acts.
    """
    waits_for_operator = before.status is not Status.HEALTHY and before.until is None
    if waits_for_operator or (before.status is not Status.HEALTHY and until is not None):
        return before
    return ExitState(Status.ERROR, until, reason, before.step + 1, before.generation + 1)


def _observation(tried: Sequence[Tried]) -> Observation:
    latencies = [each.latency_ms for each in tried if each.latency_ms is not None]
    failed = [each.finding for each in tried if each.latency_ms is None]
    return Observation(
        at=now_ms(),
        exits={each.provider: each.state for each in tried},
        latency_ms=max(latencies, default=None),
        error=failed[0] if failed else "",
    )


def _advice(failure: TunnelFailed) -> str:
    if failure.is_refusal:
        return _REFUSED
    is_reached = any(words in failure.reason for words in _PROXY_ANSWERED)
    return _NOT_ON if is_reached else _NOT_THERE
