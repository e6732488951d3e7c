"""What a config means to the parts: their arguments, made from settings."""

from collections.abc import Mapping

from keymux.core.retrying import first_steps
from keymux.core.vocabulary import Operation, WireFormat
from keymux.exchange.ports import Rules
from keymux.exchange.serve import Terms
from keymux.pools.effects import Regimen
from keymux.providers import CATALOGUE
from keymux.settings import Settings
from keymux.upstream.asking import Service


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


_UNTIL_RESTART = ("host", "port", "workers", "store", "journal", "log", "retry", "secrets")
_TIMEOUTS_UNTIL_RESTART = ("connect_s", "drain_s")


def needing_restart(before: Settings, after: Settings) -> list[str]:
    """Changes that only a restart brings into effect, as paths in the config."""
    sections = [name for name in _UNTIL_RESTART if getattr(before, name) != getattr(after, name)]
    timeouts = [
        f"timeouts.{name}"
        for name in _TIMEOUTS_UNTIL_RESTART
        if getattr(before.timeouts, name) != getattr(after.timeouts, name)
    ]
    return sections + timeouts


def keeping_until_restart(before: Settings, after: Settings) -> Settings:
    """New settings, without what only a restart brings into effect."""
    old = {name: getattr(before.timeouts, name) for name in _TIMEOUTS_UNTIL_RESTART}
    return after.model_copy(
        update={
            **{name: getattr(before, name) for name in _UNTIL_RESTART},
            "timeouts": after.timeouts.model_copy(update=old),
        }
    )
