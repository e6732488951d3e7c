"""How a key is doing, as operators see it: one status, one reason, one end."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from keymux.core.health import Status
from keymux.core.records import KeyRecord, ProviderState, Shade


class Standing(Struct, frozen=True):
    """What is to be said of a key or a provider.

    Attributes:
        status: a key that cools for a single model has the status of that cooldown.
        reason: why.
        until: end of a cooldown in milliseconds since 1970, None when it has none.
        model: the model that the status is limited to, empty for all.
    """

    status: Status
    reason: str = ""
    until: int | None = None
    model: str = ""

    def is_over(self, now: int) -> bool:
        """Whether a cooldown has ended, so that one probe may find out how things are."""
        cooling = self.status not in {Status.HEALTHY, Status.QUARANTINED, Status.DISABLED}
        return cooling and (self.until is None or self.until <= now)

    @property
    def words(self) -> str:
        """The reason, with the model it is limited to."""
        return f"{self.reason} (only {self.model})" if self.model else self.reason


def of_key(record: KeyRecord) -> Standing:
    """How a key is doing."""
    state = record.state
    if record.replaced_by:
        reason = f"{state.reason}; replaced by {record.replaced_by}".removeprefix("; ")
        return Standing(state.status, reason, None)
    if state.status is Status.HEALTHY and state.shades:
        model, shade = max(state.shades.items(), key=lambda item: item[1].until or 0)
        return Standing(shade.status, shade.reason, shade.until, model)
    return Standing(state.status, state.reason or _last_error(record), state.cooldown_until)


def _last_error(record: KeyRecord) -> str:
    return "" if record.state.status is Status.HEALTHY else record.last_error


def of_provider(state: ProviderState) -> Standing:
    """How a provider is doing as a whole."""
    return Standing(state.status, state.reason, state.cooldown_until)


def for_model(record: KeyRecord, model: str, shared: Mapping[str, Shade]) -> Standing:
    """How a key is doing for one model.

    Args:
        record: the key.
        model: its name at the provider.
        shared: cooldowns of the key's quota group, by model.
    """
    if record.replaced_by or record.state.status is not Status.HEALTHY:
        return of_key(record)
    shade = record.state.shades.get(model) or shared.get(model)
    if shade is None:
        return Standing(Status.HEALTHY)
    return Standing(shade.status, shade.reason, shade.until, model)


def shared_shades(records: Sequence[KeyRecord]) -> dict[str, dict[str, Shade]]:
    """By quota group and model: the cooldowns that hold for all keys of a group."""
    shared: dict[str, dict[str, Shade]] = {}
    for record in records:
        for model, shade in record.state.shades.items():
            if record.group and shade.whole_group:
                shared.setdefault(record.group, {})[model] = shade
    return shared
