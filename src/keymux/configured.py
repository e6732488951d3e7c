"""What a config means to the parts: their arguments, made from settings."""

from collections.abc import Mapping

from keymux.core.health import Backoff
from keymux.core.retrying import first_steps
from keymux.core.vocabulary import Operation, WireFormat
from keymux.exchange.ports import Rules
from keymux.exchange.serve import Terms
from keymux.pools.effects import Regimen
from keymux.providers import CATALOGUE
from keymux.settings import Settings
from keymux.upstream.asking import Service
from keymux.upstream.tunnel import Plan, target_of


def terms(settings: Settings, services: Mapping[str, Service]) -> Terms:
    """What exchanges go by."""
    routes = settings.routes()
    steps = {
        (model.id, wire_format, operation): tuple(
            step
            for step in first_steps(model.route)
            if services[step.target.provider].serves(wire_format, operation)
        )
        for model in routes.models.values()
        for wire_format in WireFormat
        for operation in Operation
    }
    return Terms(routes, steps, Rules(settings.patience(), settings.timeouts, settings.limits))


def services(settings: Settings) -> Mapping[str, Service]:
    """The configured providers, ready to be asked."""
    return {
        name: Service(
            CATALOGUE[provider.kind], provider.url, ca_file=provider.ca_file, http2=provider.http2
        )
        for name, provider in settings.providers.items()
    }


def regimen(settings: Settings) -> Regimen:
    """How long each trouble keeps a key away."""
    throttled, failing, provider = settings.backoffs()
    cooldown = settings.cooldown
    return Regimen(
        throttled=throttled,
        failing=failing,
        provider=provider,
        exhausted_s=cooldown.exhausted_s,
        model_off_s=cooldown.model_off_s,
        failure_threshold=cooldown.failure_threshold,
    )


def egress_backoff(settings: Settings) -> Backoff:
    """How long an exit that failed is left alone."""
    return Backoff(tuple(settings.egress.retry_s))


def check_plan(settings: Settings) -> Plan:
    """How exits are checked; those of providers without TLS are not."""
    egress = settings.egress
    targets = {
        name: target_of(
            f"https://{egress.check_target}" if egress.check_target else provider.url,
            provider.ca_file,
        )
        for name, provider in settings.providers.items()
        if not provider.is_plain
    }
    return Plan(targets, egress.check_every_s, egress.connect_s)


_UNTIL_RESTART = ("host", "port", "workers", "store", "journal", "log", "retry", "secrets")
_PARTS_UNTIL_RESTART = {"timeouts": ("connect_s", "drain_s"), "egress": ("connect_s",)}


def needing_restart(before: Settings, after: Settings) -> list[str]:
    """Changes that only a restart brings into effect, as paths in the config."""
    sections = [name for name in _UNTIL_RESTART if getattr(before, name) != getattr(after, name)]
    parts = [
        f"{section}.{name}"
        for section, names in _PARTS_UNTIL_RESTART.items()
        for name in names
        if getattr(getattr(before, section), name) != getattr(getattr(after, section), name)
    ]
    return sections + parts


def keeping_until_restart(before: Settings, after: Settings) -> Settings:
    """New settings, without what only a restart brings into effect."""
    kept: dict[str, object] = {name: getattr(before, name) for name in _UNTIL_RESTART}
    for section, names in _PARTS_UNTIL_RESTART.items():
        old = {name: getattr(getattr(before, section), name) for name in names}
        kept[section] = getattr(after, section).model_copy(update=old)
    return after.model_copy(update=kept)
