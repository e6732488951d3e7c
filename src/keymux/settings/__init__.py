"""The configuration: one JSON file, read once, validated whole, never changed afterwards.

``sections`` says what can be configured, ``reading`` turns a file into `Settings` or into the list
of everything that is wrong with it, ``address`` knows where a provider may live.
"""

from keymux.settings.reading import BadConfig, json_schema, load, parse
from keymux.settings.sections import (
    Cooldown,
    Limits,
    Log,
    ModelSettings,
    PriceSettings,
    ProviderSettings,
    Retry,
    Secrets,
    Section,
    Settings,
    TargetSettings,
    Timeouts,
)

__all__ = [
    "BadConfig",
    "Cooldown",
    "Limits",
    "Log",
    "ModelSettings",
    "PriceSettings",
    "ProviderSettings",
    "Retry",
    "Secrets",
    "Section",
    "Settings",
    "TargetSettings",
    "Timeouts",
    "json_schema",
    "load",
    "parse",
]
