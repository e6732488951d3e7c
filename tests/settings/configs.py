"""Configs with something changed, and what is wrong with them."""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from keymux.settings import BadConfig, Settings, parse

NO_VARIABLES: Mapping[str, str] = {}
_SMALLEST: dict[str, Any] = {
    "providers": {"acme": {"kind": "openai"}, "other": {"kind": "anthropic"}},
    "models": [{"id": "m", "route": [{"provider": "acme", "model": "m-1"}]}],
}


def config(**changes: object) -> dict[str, Any]:
    """A small sound config, with some fields at the top put in or replaced."""
    return {**deepcopy(_SMALLEST), **changes}


def with_provider(**changes: object) -> dict[str, Any]:
    """The same, with changes to its first provider."""
    changed = config()
    changed["providers"]["acme"].update(changes)
    return changed


def with_model(**changes: object) -> dict[str, Any]:
    """The same, with changes to its model."""
    changed = config()
    changed["models"][0].update(changes)
    return changed


def read(text: dict[str, Any] | str, environment: Mapping[str, str] = NO_VARIABLES) -> Settings:
    """The settings of a config."""
    whole = text if isinstance(text, str) else json.dumps(text)
    return parse(whole, source="test.json", environment=environment)


def problems(
    text: dict[str, Any] | str, environment: Mapping[str, str] = NO_VARIABLES
) -> list[str]:
    """What is wrong with a config that cannot be used."""
    with pytest.raises(BadConfig) as caught:
        read(text, environment)
    return caught.value.problems


def found_in(text: dict[str, Any] | str) -> list[str]:
    """What is wrong with a config, if anything is."""
    try:
        read(text)
    except BadConfig as bad:
        return bad.problems
    return []
