"""The configs that come with keymux, and the schema that editors check configs with."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from keymux.settings import Settings, json_schema, load
from tests.settings.configs import config, with_model, with_provider

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "config").glob("*.json"))
MODELS = {
    "claude-opus-4-5-20251101": (5.0, 25.0, 0.5, 6.25, 10.0),
    "claude-sonnet-4-5-20250929": (3.0, 15.0, 0.3, 3.75, 6.0),
    "claude-haiku-4-5-20251001": (1.0, 5.0, 0.1, 1.25, 2.0),
}
OPENHANDS = "https://llm-proxy.app.all-hands.dev"
OHMYGPT = "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg"
SANDBOX = "http://127.0.0.1:8105"


def _shipped(name: str) -> Settings:
    return load(ROOT / "config" / f"config-{name}.json", {})


def _complaints(text: object) -> list[str]:
    validator = Draft202012Validator(json_schema())
    return [error.json_path for error in validator.iter_errors(text)]


# -- the files -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "port", "urls", "log", "database"),
    [
        ("ohmygpt-dev", 8005, {"ohmygpt": OHMYGPT}, ("debug", "console"), "keymux-dev.db"),
        ("ohmygpt-prod", 8005, {"ohmygpt": OHMYGPT}, ("info", "json"), "keymux.db"),
        ("openhands-dev", 8004, {"openhands": OPENHANDS}, ("debug", "console"), "keymux-dev.db"),
        ("openhands-prod", 8004, {"openhands": OPENHANDS}, ("info", "json"), "keymux.db"),
        (
            "failover",
            8005,
            {"openhands": OPENHANDS, "ohmygpt": OHMYGPT},
            ("info", "json"),
            "keymux.db",
        ),
        (
            "sandbox",
            8005,
            {"openhands": f"{SANDBOX}/openhands", "ohmygpt": f"{SANDBOX}/ohmygpt"},
            ("info", "console"),
            "keymux-sandbox.db",
        ),
    ],
)
def test_what_a_shipped_config_starts(
    name: str, port: int, urls: dict[str, str], log: tuple[str, str], database: str
) -> None:
    """Loopback only, each provider where it lives, logs for people or for programs."""
    settings = _shipped(name)

    assert (settings.host, settings.port) == ("127.0.0.1", port)
    assert {name: provider.url for name, provider in settings.providers.items()} == urls
    assert (settings.log.level, settings.log.format) == log
    assert str(settings.database) == database


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_serves_the_same_models(path: Path) -> None:
    """Three models with all their prices, over every provider in order, by short names too."""
    settings = load(path, {})
    routes = settings.routes()

    assert list(routes.models) == list(MODELS)
    for model, figures in MODELS.items():
        route = routes.models[model].route
        price = route.price
        assert price is not None
        assert figures == (
            price.input,
            price.output,
            price.cache_read,
            price.cache_write_5m,
            price.cache_write_1h,
        )
        assert [target.provider for target in route.targets] == list(settings.providers)
        assert {target.model for target in route.targets} == {model}
        assert routes.find(model.rpartition("-")[0]) is routes.models[model]


def test_only_the_sandbox_config_names_the_sandbox() -> None:
    """Nobody meets it by accident."""
    kinds = {
        path.stem: {provider.kind for provider in load(path, {}).providers.values()}
        for path in SHIPPED
    }

    assert [stem for stem, found in kinds.items() if "sandbox" in found] == ["config-sandbox"]
    assert len(SHIPPED) == 6


# -- the schema ------------------------------------------------------------------------------------
def test_the_schema_is_one() -> None:
    """It says which draft it is written in, and keeps to it."""
    schema = json_schema()
    Draft202012Validator.check_schema(schema)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    """An editor underlines nothing."""
    assert _complaints(json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(config(**{"$schema": "./schema.json"}), id="a line for editors"),
        pytest.param(with_provider(base_url="env.ADDRESS"), id="an address from the environment"),
        pytest.param(with_provider(base_url="http://localhost:1/x"), id="this machine"),
        pytest.param(with_provider(base_url="http://[::1]:1"), id="this machine, newer"),
        pytest.param(with_provider(base_url=""), id="the dialect's own address"),
        pytest.param(with_model(aliases=["a*"], price=None), id="an alias and no price"),
        pytest.param(config(cooldown={"error_s": [1, 2.5]}), id="steps"),
    ],
)
def test_the_schema_accepts_what_is_sound(changed: dict[str, Any]) -> None:
    """Everything that the reader takes."""
    assert _complaints(changed) == []


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        pytest.param(config(prot=1), "$", id="an unknown field"),
        pytest.param(config(port="8005"), "$.port", id="a port in quotes"),
        pytest.param(config(port=70_000), "$.port", id="a port that is none"),
        pytest.param(config(models=[]), "$.models", id="no models"),
        pytest.param(config(providers={}), "$.providers", id="no providers"),
        pytest.param(config(providers={"A": {"kind": "openai"}}), "$.providers", id="a bad name"),
        pytest.param(with_provider(kind="gpt"), "$.providers.acme.kind", id="an unknown dialect"),
        pytest.param(
            with_provider(base_url="http://a.test"), "$.providers.acme.base_url", id="plain http"
        ),
        pytest.param(with_model(route=[]), "$.models[0].route", id="an empty route"),
        pytest.param(with_model(id="a b"), "$.models[0].id", id="an id with a space"),
        pytest.param(with_model(price={"input": -1}), "$.models[0].price", id="a negative price"),
        pytest.param(config(log={"level": "trace"}), "$.log.level", id="a level that is none"),
        pytest.param(config(timeouts={"idle_s": 0}), "$.timeouts.idle_s", id="no time"),
        pytest.param({}, "$", id="nothing"),
    ],
)
def test_the_schema_refuses_what_is_wrong(changed: dict[str, Any], path: str) -> None:
    """An editor underlines it."""
    assert path in _complaints(changed)


def test_every_field_is_explained() -> None:
    """Editors show a sentence for each."""
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    silent = [
        (section.get("title"), name)
        for section in sections
        for name, field in section["properties"].items()
        if not field.get("description") and "$ref" not in field
    ]

    assert silent == []
