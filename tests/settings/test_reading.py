"""A config is checked whole: every problem at once, each with the place where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.providers import CATALOGUE
from keymux.settings import BadConfig, Settings, load, parse
from tests.settings.configs import config, found_in, problems, read, with_model, with_provider
from tests.wire.json_text import values

BAD_STORE = "use sqlite:/// and a file name, such as sqlite:///keymux.db, or mongodb://host/name"
BAD_NAME = "use small letters, digits and _ for its name, a letter first, at most 31"
PLAIN_HTTP = "use https; plain http is allowed on a loopback address only"
ROUTE = [{"provider": "acme", "model": "m-1"}]


def _model(name: str, **more: object) -> dict[str, object]:
    return {"id": name, "route": ROUTE, **more}


# -- the text --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "Expecting value", id="nothing"),
        pytest.param("{", "Expecting property name", id="half an object"),
        pytest.param('{"a":1,}', "Expecting property name", id="a comma too many"),
        pytest.param("{} x", "Extra data", id="something behind it"),
        pytest.param('{"port":NaN}', "NaN is no number", id="not a number"),
        pytest.param('{"port":-Infinity}', "-Infinity is no number", id="infinity"),
        pytest.param('{"port":1e999}', "the number 1e999 is too large", id="beyond all numbers"),
        pytest.param('{"port":' + "9" * 5000 + "}", "", id="a number of five thousand digits"),
        pytest.param("[" * 100_000, "", id="a tower of brackets"),
    ],
)
def test_a_text_that_is_no_json(text: str, told: str) -> None:
    """One problem: there is nothing to look at."""
    (problem,) = problems(text)

    assert problem.startswith("$: is not valid JSON: ")
    assert told in problem


@pytest.mark.parametrize("text", ["[]", "null", "5", '"x"'])
def test_a_config_is_an_object(text: str) -> None:
    """Other JSON is none."""
    assert problems(text) == ["$: input should be an object"]


def test_a_number_is_not_repeated_at_length() -> None:
    """Forty digits will do."""
    (problem,) = problems('{"port":1' + "0" * 500 + ".0}")

    assert problem == f"$: is not valid JSON: the number 1{'0' * 39} is too large"


# -- every problem at once -------------------------------------------------------------------------
def test_everything_that_is_wrong_is_told_at_once() -> None:
    """Across sections, with wrong types, missing fields, missing variables and clashes of names."""
    broken = {
        "port": "8005",
        "store": "postgres://h",
        "prot": 1,
        "providers": {
            "Acme": {"kind": "openai", "base_url": "http://api.example.com"},
            "box": {"kind": "sandbox", "ca_file": "env.NOT_SET"},
            "odd": {"kind": "gpt", "key": "x"},
        },
        "models": [
            {"id": "m", "route": []},
            {"id": "m", "route": [{"provider": "nobody", "model": "x"}], "price": {"input": -1}},
        ],
        "timeouts": {"overall_s": 10},
    }

    assert sorted(problems(broken)) == sorted(
        [
            "$.providers.box.ca_file: the environment variable NOT_SET is not set",
            "$.port: input should be a valid integer",
            f"$.store: {BAD_STORE}",
            "$.prot: no such field",
            f"$.providers.Acme.base_url: {PLAIN_HTTP}",
            f"$.providers.odd.kind: no dialect is called 'gpt'; there are {', '.join(CATALOGUE)}",
            "$.providers.odd.key: no such field",
            "$.models[0].route: list should have at least 1 item after validation, not 0",
            "$.models[1].price.input: input should be greater than or equal to 0",
            f"$.providers.Acme: {BAD_NAME}",
            "$.providers.box.base_url: the dialect 'sandbox' has no address of its own",
            "$.models[1].id: the name 'm' already belongs to $.models[0]",
            "$.models[1].route[0].provider: no provider of this config is called 'nobody'",
            "$.timeouts.early_commit_s: longer than overall_s",
        ]
    )


def test_the_error_names_the_file_and_all_of_it() -> None:
    """Whoever prints it needs nothing else."""
    with pytest.raises(BadConfig, match=r"^test\.json: \$\.port: .*; \$\.x: no such field$"):
        read(config(port=0, x=1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(config(providers={}), "$.providers: dictionary should have", id="none at all"),
        pytest.param(config(models=[]), "$.models: list should have at least 1", id="no models"),
        pytest.param(config(providers=[]), "$.providers: input should be an object", id="a list"),
        pytest.param(config(models={}), "$.models: input should be a valid array", id="an object"),
        pytest.param(config(models=[5]), "$.models[0]: input should be an object", id="a number"),
        pytest.param(
            with_provider(kind=5),
            "$.providers.acme.kind: input should be a valid string",
            id="kind",
        ),
        pytest.param(
            with_model(route=[{"provider": 5, "model": "x"}]),
            "$.models[0].route[0].provider: input should be a valid string",
            id="a provider that is a number",
        ),
        pytest.param(
            with_model(aliases="x"),
            "$.models[0].aliases: input should be a valid array",
            id="aliases that are a word",
        ),
        pytest.param(
            with_model(id=["m"]), "$.models[0].id: input should be a valid string", id="an id"
        ),
        pytest.param(
            config(timeouts=5), "$.timeouts: input should be an object", id="a section of a number"
        ),
        pytest.param(
            config(timeouts={"early_commit_s": "x"}),
            "$.timeouts.early_commit_s: input should be a valid number",
            id="a time that is a word",
        ),
    ],
)
def test_a_wrong_type_is_told_where_it_stands(changed: dict[str, Any], expected: str) -> None:
    """Also where other checks look at the same field."""
    assert [line for line in problems(changed) if line.startswith(expected)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("a b", '$["a b"]', id="with a space"),
        pytest.param("a.b", '$["a.b"]', id="with a dot"),
        pytest.param('"', '$["\\""]', id="a quote"),
        pytest.param("", '$[""]', id="no name"),
        pytest.param("é", '$["\\u00e9"]', id="in another script"),
        pytest.param("$x_1", "$.$x_1", id="with a dollar"),
    ],
)
def test_odd_names_are_quoted_in_paths(name: str, path: str) -> None:
    """So that a path can be read back."""
    assert problems(config(**{name: 1})) == [f"{path}: no such field"]


# -- names that stand twice ------------------------------------------------------------------------
def test_a_name_that_stands_twice_is_a_problem() -> None:
    """Which of the two would count is anybody's guess."""
    text = json.dumps(config()).replace('"providers"', '"port": 1, "port": 2, "providers"')
    text = text.replace('"kind": "openai"', '"kind": "openai", "kind": "openai"')

    assert problems(text) == [
        "$.port: stands there twice",
        "$.providers.acme.kind: stands there twice",
    ]


# -- the environment -------------------------------------------------------------------------------
def test_a_variable_is_put_in_for_its_name() -> None:
    """Anywhere, lists included, before anything is checked."""
    changed = with_provider(base_url="env.ADDRESS")
    changed["models"][0]["aliases"] = ["env.ALIAS"]

    settings = read(changed, {"ADDRESS": "https://a.test", "ALIAS": "x"})

    assert settings.providers["acme"].url == "https://a.test"
    assert settings.models[0].aliases == ["x"]


@pytest.mark.parametrize("environment", [{}, {"ADDRESS": ""}], ids=["missing", "empty"])
def test_a_variable_that_is_not_set_is_told(environment: dict[str, str]) -> None:
    """By its name, and nothing more is said of that field."""
    assert problems(with_provider(base_url="env.ADDRESS"), environment) == [
        "$.providers.acme.base_url: the environment variable ADDRESS is not set"
    ]


@pytest.mark.parametrize(
    "name", ["env.", "env.1X", "env.A-B", "xenv.A", "ENV.A", "env.A ", "env.A\n", "env.É"]
)
def test_what_only_looks_like_a_variable_is_text(name: str) -> None:
    """It is taken as it stands."""
    assert read(with_model(name=name)).models[0].name == name


def test_a_variable_is_never_shown() -> None:
    """Its value may be a secret, also where it is wrong."""
    environment = {"A": "https://hunter2@a.test", "B": "hunter2", "C": "hunter2", "D": "hunter2"}
    changed = with_provider(base_url="env.A")
    changed |= {"port": "env.B", "log": {"level": "env.C"}, "store": "env.D"}

    assert "hunter2" not in " ".join(problems(changed, environment))


def test_a_value_is_not_looked_up_again() -> None:
    """A variable that names another is text."""
    assert read(with_model(name="env.A"), {"A": "env.B", "B": "x"}).models[0].name == "env.B"


# -- what one section has to do with another -------------------------------------------------------
@pytest.mark.parametrize(
    ("models", "expected"),
    [
        pytest.param(
            [_model("a"), _model("b", aliases=["a"])],
            ["$.models[1].aliases[0]: the name 'a' already belongs to $.models[0]"],
            id="an alias that is another's id",
        ),
        pytest.param(
            [_model("a", aliases=["x*"]), _model("b", aliases=["y", "x*"])],
            ["$.models[1].aliases[1]: the name 'x*' already belongs to $.models[0]"],
            id="the same prefix",
        ),
        pytest.param(
            [_model("a", aliases=["a", "x", "x"])],
            [
                "$.models[0].aliases[0]: the name 'a' already belongs to $.models[0]",
                "$.models[0].aliases[2]: the name 'x' already belongs to $.models[0]",
            ],
            id="its own names again",
        ),
        pytest.param(
            [_model("a" * 60), _model("a" * 60)],
            [f"$.models[1].id: the name {'a' * 40!r} already belongs to $.models[0]"],
            id="a long name, cut",
        ),
    ],
)
def test_a_name_belongs_to_one_model(models: list[object], expected: list[str]) -> None:
    """Ids and aliases together."""
    assert problems(config(models=models)) == expected


def test_a_route_names_each_provider_once() -> None:
    """A second target at the same provider would be no other place to go."""
    assert problems(with_model(route=ROUTE * 2)) == [
        "$.models[0].route[1].provider: 'acme' is in this route already"
    ]


@pytest.mark.parametrize("name", ["A", "1a", "_a", "a-b", "a b", "", "a" * 32, "é", "a\n"])
def test_a_provider_name_is_a_plain_word(name: str) -> None:
    """It becomes part of names of collections and labels."""
    changed = config(providers={name: {"kind": "openai"}})
    changed["models"][0]["route"] = [{"provider": name, "model": "x"}]
    (problem,) = problems(changed)

    assert problem.endswith(BAD_NAME)


@pytest.mark.parametrize("name", ["a", "a1_b", "a" * 31])
def test_plain_words_name_providers(name: str) -> None:
    """Up to 31 letters."""
    changed = config(providers={name: {"kind": "openai"}})
    changed["models"][0]["route"] = [{"provider": name, "model": "x"}]

    assert list(read(changed).providers) == [name]


@pytest.mark.parametrize(
    ("timeouts", "sound"),
    [
        pytest.param({"overall_s": 25}, True, id="just as long"),
        pytest.param({"overall_s": 24.9}, False, id="shorter than the default of the other"),
        pytest.param({"early_commit_s": 601}, False, id="longer than the default of the other"),
        pytest.param({"early_commit_s": 5, "overall_s": 6}, True, id="shorter than the other"),
    ],
)
def test_a_stream_is_committed_before_the_exchange_is_over(
    timeouts: dict[str, float], *, sound: bool
) -> None:
    """`early_commit_s` may not be longer than `overall_s`, defaults included."""
    told = [] if sound else ["$.timeouts.early_commit_s: longer than overall_s"]

    assert found_in(config(timeouts=timeouts)) == told


# -- files -----------------------------------------------------------------------------------------
def test_a_file_is_read(tmp_path: Path) -> None:
    """With the mark that some editors put in front, and with the environment."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(with_model(name="env.NAME")), encoding="utf-8-sig")

    assert load(path, {"NAME": "Ä"}).models[0].name == "Ä"


@pytest.mark.parametrize("content", [None, b"\xff\xfe{"], ids=["not there", "no UTF-8"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """The reason is told, with the file."""
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadConfig) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}: $: cannot be read: ")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """It is told like a file that is not there."""
    with pytest.raises(BadConfig, match="cannot be read"):
        load(tmp_path)


# -- whatever comes in -----------------------------------------------------------------------------
FIELDS = sorted({*Settings.model_fields, "$schema", "kind", "base_url", "id", "route", "provider"})
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["openai", "acme", "env.A", "sqlite:///x", "\ud800", "https://a\x00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


def _is_read_or_refused(text: str) -> bool:
    try:
        return isinstance(parse(text, source="x", environment={"A": "b"}), Settings)
    except BadConfig as bad:
        return bool(bad.problems) and all(line.startswith("$") for line in bad.problems)


@given(st.text() | values)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but `BadConfig` is ever raised."""
    assert _is_read_or_refused(text)


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
def test_any_config_is_read_or_refused(changes: dict[str, object]) -> None:
    """Wherever a value does not belong."""
    assert _is_read_or_refused(json.dumps(config(**changes)))


@given(st.data())
def test_any_section_is_read_or_refused(data: st.DataObject) -> None:
    """One level down as well."""
    name = data.draw(st.sampled_from(["timeouts", "retry", "cooldown", "limits", "log"]))
    fields = sorted(type(getattr(read(config()), name)).model_fields)
    section = data.draw(st.dictionaries(st.sampled_from(fields), json_values, max_size=3))

    assert _is_read_or_refused(json.dumps(config(**{name: section})))


@given(st.dictionaries(st.sampled_from(["kind", "base_url", "ca_file", "http2"]), json_values))
def test_any_provider_is_read_or_refused(changes: dict[str, object]) -> None:
    """Also its address and its file."""
    assert _is_read_or_refused(json.dumps(with_provider(**changes)))


@given(
    st.dictionaries(
        st.sampled_from(["id", "name", "aliases", "route", "price", "metering", "created"]),
        json_values,
    )
)
def test_any_model_is_read_or_refused(changes: dict[str, object]) -> None:
    """Also its names, its route and its price."""
    assert _is_read_or_refused(json.dumps(with_model(**changes)))
