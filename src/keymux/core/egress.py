"""The ways out of this host: egress proxies, and which of them an upstream key must use.

A key with bindings leaves only through them, whatever their state; see `docs/egress.md`.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from keymux.core.health import Status
from keymux.core.vocabulary import Word

DIRECT = "direct"
"""The name of the way out without a proxy; no proxy may be called that."""

FIRST_PRIORITY, LAST_PRIORITY = 1, 1000


class ProxyType(Word):
    """What a proxy speaks.

    ``http``: CONNECT in plain text. ``https``: CONNECT over TLS to the proxy. ``socks5``: with
    names resolved at the proxy, never here.
    """

    HTTP = "http"
    HTTPS = "https"
    SOCKS5 = "socks5"


class ProxyAddress(Struct, frozen=True):
    """Where a proxy is and who we are to it.

    Attributes:
        type: what it speaks.
        host: name or IP address, an IPv6 address without brackets.
        port: 1 to 65535.
        username: empty for none.
        password: never shown.
    """

    type: ProxyType
    host: str
    port: int
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"<ProxyAddress {self.shown}>"

    @property
    def shown(self) -> str:
        """As a URL for people, without the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.type}://{'***@' if self.username else ''}{host}:{self.port}"


class ExitState(Struct, frozen=True, omit_defaults=True):
    """How one provider can be reached through one proxy, as it is stored.

    Attributes:
        status: ``healthy``; ``error`` while it is left alone until a time, or without one when the
            proxy refuses our credentials and waits for an operator; ``quarantined`` when the
            provider refuses those who come this way, which waits for an operator too.
        until: when it is checked again, milliseconds since 1970; None when it is not.
        reason: in words, without addresses or secrets.
        step: failures in a row.
        generation: transitions so far; what is older is not put in place of what is newer.
    """

    status: Status = Status.HEALTHY
    until: int | None = None
    reason: str = ""
    step: int = 0
    generation: int = 0


class ProxyStatus(Word):
    """How a proxy is doing, all providers together."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    MISCONFIGURED = "misconfigured"
    BLOCKED = "blocked"


class ProxyRecord(Struct, frozen=True):
    """An egress proxy.

    Attributes:
        id: unique.
        name: what operators, logs and metrics call it; unique.
        address: where it is, with the credentials.
        is_active: whether an operator lets it be used.
        exits: how each provider can be reached through it, as far as that is known.
        last_latency_ms: of the last check that succeeded.
        last_checked_at: milliseconds since 1970, of the last check.
        last_error: of the last check or attempt that failed; empty when the last one succeeded.
        fail_count: checks and attempts in a row that failed.
        created_at: milliseconds since 1970.
    """

    id: str
    name: str
    address: ProxyAddress
    is_active: bool = True
    exits: Mapping[str, ExitState] = {}
    last_latency_ms: int | None = None
    last_checked_at: int | None = None
    last_error: str = ""
    fail_count: int = 0
    created_at: int = 0

    def __repr__(self) -> str:
        return f"<ProxyRecord {self.id} {self.name}>"

    @property
    def status(self) -> ProxyStatus:
        """The worst of what is known."""
        return status_of(self.exits.values())


def status_of(exits: Iterable[ExitState]) -> ProxyStatus:
    """How a proxy is doing, from how each provider can be reached through it: the worst counts."""
    found = {_word_for(state) for state in exits}
    return next((word for word in _WORST_FIRST if word in found), ProxyStatus.UNKNOWN)


_WORST_FIRST = (
    ProxyStatus.BLOCKED,
    ProxyStatus.MISCONFIGURED,
    ProxyStatus.UNHEALTHY,
    ProxyStatus.HEALTHY,
)


def _word_for(state: ExitState) -> ProxyStatus:
    if state.status is Status.HEALTHY:
        return ProxyStatus.HEALTHY
    if state.status is Status.QUARANTINED:
        return ProxyStatus.BLOCKED
    return ProxyStatus.MISCONFIGURED if state.until is None else ProxyStatus.UNHEALTHY


class BindingRecord(Struct, frozen=True):
    """One proxy that an upstream key of a provider must use.

    Attributes:
        id: unique within the provider.
        proxy_id: which proxy.
        key_id: which upstream key.
        priority: 1 to 1000; the lowest is used first, equal ones take turns.
        is_active: whether it may be used. A key whose bindings are all inactive is bound all the
            same, and cannot be used.
        created_at: milliseconds since 1970.
    """

    id: str
    proxy_id: str
    key_id: str
    priority: int = FIRST_PRIORITY
    is_active: bool = True
    created_at: int = 0


class Observation(Struct, frozen=True):
    """What a check of a proxy, or an attempt through it, has shown.

    Attributes:
        at: milliseconds since 1970.
        exits: how the providers in question can be reached through it now.
        is_check: False for what an attempt has shown: a check was not made then.
        latency_ms: until the TLS handshake was over; None when it failed, or was not measured.
        error: empty when all went well.
    """

    at: int
    exits: Mapping[str, ExitState]
    is_check: bool = True
    latency_ms: int | None = None
    error: str = ""


class Repaired(Struct, frozen=True):
    """What a repair of bindings has found and done.

    Attributes:
        checked: bindings looked at.
        repaired: moved to the backup key that took over for a key that is gone.
        deleted: their key is gone and nothing took over, or what took over has them already.
        without_proxy: their proxy is gone; kept, because without them the key would go directly.
    """

    checked: int = 0
    repaired: int = 0
    deleted: int = 0
    without_proxy: int = 0
