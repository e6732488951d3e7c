"""What can be decided, what the defaults are, and what becomes of it."""

from pathlib import Path
from typing import Any

import pytest

from keymux.core.health import Backoff
from keymux.core.retrying import Patience
from keymux.core.vocabulary import Metering, Price, Target
from keymux.settings import Settings
from tests.settings.configs import config, found_in, problems, read, with_model, with_provider


def _model_of(settings: Settings, asked: str) -> str | None:
    model = settings.routes().find(asked)
    return model.id if model else None


# -- defaults --------------------------------------------------------------------------------------
def test_a_config_may_be_short() -> None:
    """Providers and models are all that has to be said."""
    settings = read(config())

    assert (settings.host, settings.port) == ("127.0.0.1", 8005)
    assert settings.database == Path("keymux.db")
    assert (settings.log.level, settings.log.format) == ("info", "json")
    assert settings.limits.body_bytes == 32 * 2**20


def test_the_defaults_of_retrying_are_those_of_the_table() -> None:
    """Eight attempts, three of them processed, half a dollar for an ambiguous one."""
    settings = read(config())

    assert settings.patience() == Patience()
    assert settings.patience() == Patience(
        attempts=8, processed=3, ambiguous_max_cost_micros=500_000
    )


def test_the_defaults_of_cooling_are_those_of_the_rules() -> None:
    """15 to 300 s for keys, 5 to 60 s for providers, an hour for spent keys, six for models."""
    settings = read(config())

    assert settings.backoffs() == (
        Backoff((15, 30, 60, 120, 300)),
        Backoff((15, 30, 60, 120, 300)),
        Backoff((5, 10, 20, 40, 60)),
    )
    assert (settings.cooldown.exhausted_s, settings.cooldown.model_off_s) == (3600, 21_600)


def test_the_other_defaults() -> None:
    """What operators who say nothing rely on; who changes one here tells them in the changelog."""
    settings = read(with_model(price={}))

    assert settings.timeouts.model_dump() == {
        "connect_s": 5,
        "first_event_s": 120,
        "idle_s": 120,
        "overall_s": 600,
        "client_write_s": 60,
        "client_body_s": 30,
        "keep_alive_s": 15,
        "early_commit_s": 25,
        "drain_s": 600,
    }
    assert settings.limits.model_dump() == {
        "body_bytes": 33_554_432,
        "answer_bytes": 67_108_864,
        "event_bytes": 1_048_576,
        "header_bytes": 32_768,
        "exchanges": 4000,
        "count_tokens": 64,
        "chunked_requests": False,
    }
    assert (settings.retry.budget_percent, settings.retry.budget_floor) == (20, 30)
    assert (settings.retry.queue_s, settings.retry.queue_length) == (2, 100)
    assert settings.cooldown.failure_threshold == 3
    assert settings.routes().models["m"].route.price == Price(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"port": 1}, id="the first port"),
        pytest.param({"port": 65_535}, id="the last port"),
        pytest.param({"timeouts": {"idle_s": 86_400}}, id="a day"),
        pytest.param({"retry": {"attempts": 1, "processed_attempts": 1}}, id="a single attempt"),
        pytest.param({"retry": {"attempts": 32, "processed_attempts": 8}}, id="the most attempts"),
        pytest.param({"retry": {"budget_percent": 0, "budget_floor": 0}}, id="no retries"),
        pytest.param({"retry": {"budget_percent": 100, "queue_s": 30}}, id="as many as requests"),
        pytest.param({"retry": {"queue_s": 0, "queue_length": 1}}, id="no waiting"),
        pytest.param({"limits": {"exchanges": 1, "count_tokens": 1}}, id="one at a time"),
        pytest.param({"journal": "j"}, id="a journal of one letter"),
    ],
)
def test_the_outermost_values_are_taken(changes: dict[str, Any]) -> None:
    """Bounds belong to what they bound."""
    assert found_in(config(**changes)) == []


def test_dollars_become_millionths() -> None:
    """The table counts in whole ones."""
    settings = read(config(retry={"ambiguous_max_cost_usd": 12.5}))

    assert settings.patience().ambiguous_max_cost_micros == 12_500_000


def test_what_is_decided_goes_where_it_is_used() -> None:
    """Retrying and cooling as the config says."""
    settings = read(
        config(
            retry={"attempts": 5, "processed_attempts": 2, "ambiguous_max_cost_usd": 0.1},
            cooldown={"rate_limited_s": [1], "error_s": [2, 3], "provider_s": [4.5]},
        )
    )

    assert settings.patience() == Patience(
        attempts=5, processed=2, ambiguous_max_cost_micros=100_000
    )
    assert settings.backoffs() == (Backoff((1,)), Backoff((2, 3)), Backoff((4.5,)))


# -- single values ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        pytest.param({"port": 0}, "$.port", id="no port"),
        pytest.param({"port": 65_536}, "$.port", id="beyond the ports"),
        pytest.param({"port": 80.5}, "$.port", id="a port with a fraction"),
        pytest.param({"port": True}, "$.port", id="true for a port"),
        pytest.param({"host": ""}, "$.host", id="no host"),
        pytest.param({"host": "a b"}, "$.host", id="a host with a space"),
        pytest.param({"host": "http://h"}, "$.host", id="a host that is a URL"),
        pytest.param({"journal": ""}, "$.journal", id="a journal without a name"),
        pytest.param({"journal": "a\x00b"}, "$.journal", id="a journal with a NUL"),
        pytest.param({"metering": "none"}, "$.metering", id="metering in another way"),
        pytest.param({"timeouts": {"idle_s": 0}}, "$.timeouts.idle_s", id="no time"),
        pytest.param({"timeouts": {"idle_s": -1}}, "$.timeouts.idle_s", id="less than no time"),
        pytest.param({"timeouts": {"idle_s": 86_401}}, "$.timeouts.idle_s", id="over a day"),
        pytest.param({"timeouts": {"idle_s": "5"}}, "$.timeouts.idle_s", id="a time in quotes"),
        pytest.param({"timeouts": {"idel_s": 5}}, "$.timeouts.idel_s", id="a slip of the pen"),
        pytest.param({"retry": {"attempts": 0}}, "$.retry.attempts", id="no attempt"),
        pytest.param({"retry": {"attempts": 33}}, "$.retry.attempts", id="too many attempts"),
        pytest.param(
            {"retry": {"processed_attempts": 9}}, "$.retry.processed_attempts", id="paid ones"
        ),
        pytest.param({"retry": {"budget_percent": 101}}, "$.retry.budget_percent", id="over all"),
        pytest.param({"retry": {"queue_s": 31}}, "$.retry.queue_s", id="a long wait for a key"),
        pytest.param({"cooldown": {"error_s": []}}, "$.cooldown.error_s", id="no steps"),
        pytest.param({"cooldown": {"error_s": [0]}}, "$.cooldown.error_s[0]", id="a step of none"),
        pytest.param({"limits": {"exchanges": 0}}, "$.limits.exchanges", id="no exchange at all"),
        pytest.param({"limits": {"chunked_requests": 1}}, "$.limits.chunked_requests", id="1"),
        pytest.param({"log": {"level": "trace"}}, "$.log.level", id="a level that is none"),
        pytest.param({"log": {"format": "text"}}, "$.log.format", id="a format that is none"),
        pytest.param({"$schema": 5}, "$.$schema", id="a schema that is a number"),
    ],
)
def test_a_value_that_makes_no_sense_is_told(changes: dict[str, Any], path: str) -> None:
    """At its place."""
    assert [line.partition(":")[0] for line in problems(config(**changes))] == [path]


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        pytest.param(with_provider(http2="yes"), "$.providers.acme.http2", id="a word for a yes"),
        pytest.param(with_provider(ca_file="no.pem"), "$.providers.acme.ca_file", id="no file"),
        pytest.param(with_provider(ca_file="/"), "$.providers.acme.ca_file", id="a folder"),
        pytest.param(with_provider(ca_file="\x00"), "$.providers.acme.ca_file", id="a NUL"),
        pytest.param(
            with_provider(ca_file="x" * 9999), "$.providers.acme.ca_file", id="far too long"
        ),
        pytest.param(with_model(id=""), "$.models[0].id", id="no id"),
        pytest.param(with_model(id="a b"), "$.models[0].id", id="an id with a space"),
        pytest.param(with_model(id="x" * 201), "$.models[0].id", id="an id that is too long"),
        pytest.param(with_model(aliases=["ä"]), "$.models[0].aliases[0]", id="another script"),
        pytest.param(with_model(aliases=["a*b"]), "$.models[0].aliases", id="* in the middle"),
        pytest.param(with_model(aliases=["*a"]), "$.models[0].aliases", id="* in front"),
        pytest.param(with_model(aliases=["a**"]), "$.models[0].aliases", id="two of them"),
        pytest.param(with_model(created=-1), "$.models[0].created", id="before 1970"),
        pytest.param(with_model(metering="x"), "$.models[0].metering", id="metering"),
        pytest.param(with_model(price={"inptu": 1}), "$.models[0].price.inptu", id="price"),
        pytest.param(with_model(first_event_s=0), "$.models[0].first_event_s", id="no time"),
    ],
)
def test_a_value_of_a_provider_or_model_that_makes_no_sense(
    changed: dict[str, Any], path: str
) -> None:
    """At its place."""
    assert [line.partition(": ")[0] for line in problems(changed)] == [path]


@pytest.mark.parametrize(
    ("store", "sound"),
    [
        pytest.param("sqlite:///keymux.db", True, id="beside us"),
        pytest.param("sqlite:////var/lib/keymux/a.db", True, id="an absolute path"),
        pytest.param("sqlite:///data/ä b", True, id="odd but a file"),
        pytest.param("sqlite:///", False, id="no file"),
        pytest.param("sqlite://keymux.db", False, id="a slash too few"),
        pytest.param("SQLITE:///x.db", False, id="in capitals"),
        pytest.param("keymux.db", False, id="a file alone"),
        pytest.param("", False, id="nothing"),
        pytest.param("postgres://127.0.0.1/x", False, id="another store"),
        pytest.param("sqlite:///data/", False, id="a folder"),
        pytest.param("sqlite:///.", False, id="this folder"),
        pytest.param("sqlite:///data/..", False, id="the folder above"),
        pytest.param("sqlite:///data/.", False, id="the same folder"),
        pytest.param("sqlite:///..", False, id="up"),
        pytest.param("sqlite:///:memory:", False, id="only in memory"),
        pytest.param("sqlite:///file:x?mode=memory", False, id="a URI"),
        pytest.param("sqlite:///x.db?mode=ro", False, id="a parameter"),
        pytest.param("sqlite:///x\x00.db", False, id="a NUL"),
        pytest.param("sqlite:///x\n.db", False, id="a newline"),
    ],
)
def test_a_store_in_a_file(store: str, *, sound: bool) -> None:
    """Anything that SQLite would read as something else is refused."""
    told = [] if sound else ["$.store"]

    assert [line.partition(":")[0] for line in found_in(config(store=store))] == told


@pytest.mark.parametrize(
    ("changes", "database", "journal"),
    [
        pytest.param({}, "keymux.db", "keymux.journal", id="the defaults"),
        pytest.param({"store": "sqlite:////a/b.db"}, "/a/b.db", "/a/b.journal", id="elsewhere"),
        pytest.param({"store": "sqlite:///a/b"}, "a/b", "a/b.journal", id="without an ending"),
        pytest.param({"store": "sqlite:///a.b.c"}, "a.b.c", "a.b.c.journal", id="other endings"),
        pytest.param({"store": "sqlite:///.db"}, ".db", ".journal", id="an ending alone"),
        pytest.param({"journal": "/j"}, "keymux.db", "/j", id="a journal of its own"),
    ],
)
def test_where_things_lie(changes: dict[str, Any], database: str, journal: str) -> None:
    """The journal lies beside the database unless the config says otherwise."""
    settings = read(config(**changes))

    assert settings.database == Path(database)
    assert settings.journal_folder == Path(journal)


# -- providers -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "url"),
    [
        pytest.param({}, "https://api.openai.com", id="the dialect's own address"),
        pytest.param({"base_url": ""}, "https://api.openai.com", id="an empty one"),
        pytest.param({"base_url": "https://a.test/x"}, "https://a.test/x", id="another"),
        pytest.param({"base_url": "https://a.test/x//"}, "https://a.test/x", id="slashes behind"),
    ],
)
def test_where_a_provider_is(changes: dict[str, Any], url: str) -> None:
    """Without a slash at the end, because paths begin with one."""
    assert read(with_provider(**changes)).providers["acme"].url == url


def test_a_file_of_certificates_is_there_and_readable(tmp_path: Path) -> None:
    """It is not opened yet."""
    path = tmp_path / "ca.pem"
    path.write_text("")

    assert read(with_provider(ca_file=str(path))).providers["acme"].ca_file == str(path)


# -- models ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("claude-x-1", "claude-x-1", id="its id"),
        pytest.param("claude-x", "claude-x-1", id="an alias"),
        pytest.param("claude-x-1[1m]", "claude-x-1", id="with the mark for a wide context"),
        pytest.param("claude-y-2", "claude-y", id="a prefix"),
        pytest.param("claude-y-big-3", "claude-x-1", id="the longer prefix"),
        pytest.param("exact[1m]", "claude-y", id="an alias that has the mark itself"),
        pytest.param("claude", None, id="shorter than every prefix"),
        pytest.param("gpt-9", None, id="nobody's"),
    ],
)
def test_the_names_of_models(asked: str, found: str | None) -> None:
    """Ids, aliases, prefixes that end in *, and names with [1m]."""
    route = [{"provider": "acme", "model": "x"}]
    models = [
        {"id": "claude-x-1", "aliases": ["claude-x", "claude-y-big-*"], "route": route},
        {"id": "claude-y", "aliases": ["claude-y-*", "exact[1m]"], "route": route},
    ]

    assert _model_of(read(config(models=models)), asked) == found


def test_a_star_alone_takes_every_name() -> None:
    """A config may have a model for whatever is asked."""
    assert _model_of(read(with_model(aliases=["*"])), "anything") == "m"


def test_a_model_becomes_a_route() -> None:
    """With its targets in order, its price, its date and what it overrides."""
    settings = read(
        with_model(
            name="Em",
            created=1700000000,
            metering="passthrough",
            first_event_s=600,
            route=[{"provider": "other", "model": "a"}, {"provider": "acme", "model": "b"}],
            price={"input": 1, "output": 2.5, "cache_read": 0.1},
        )
    )
    model = settings.routes().models["m"]

    assert (model.name, model.created) == ("Em", 1700000000)
    assert model.route.model == "m"
    assert model.route.targets == (Target("other", "a"), Target("acme", "b"))
    assert model.route.price == Price(input=1, output=2.5, cache_read=0.1)
    assert (model.route.metering, model.route.first_event_s) == (Metering.PASSTHROUGH, 600)


def test_what_a_model_does_not_say() -> None:
    """Its id is its name, its cost is unknown, and metering is as for all."""
    model = read(config(metering="passthrough")).routes().models["m"]

    assert (model.name, model.created, model.route.price) == ("m", 0, None)
    assert (model.route.metering, model.route.first_event_s) == (Metering.PASSTHROUGH, None)


def test_settings_do_not_change() -> None:
    """A reload makes new ones."""
    settings = read(config())

    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
