"""`keymux check` and `keymux schema`."""

import json

import jsonschema
import pytest

from tests.cli.program import CONFIG, Program


def test_a_sound_config_is_said_to_be_sound(keymux: Program) -> None:
    """The command ends well and names what it found."""
    done = keymux.good("check")

    assert f"{keymux.config} is sound: providers alpha, beta; 2 models" in done.out
    assert str(keymux.folder / "keymux.db") in done.out


def test_checking_touches_nothing(keymux: Program) -> None:
    """No database and no folder comes to be."""
    keymux.good("check")

    assert list(keymux.folder.iterdir()) == [keymux.config]


def test_every_problem_is_named_with_its_path(keymux: Program) -> None:
    """All of them at once, so that a config is mended in one go."""
    keymux.configure({**CONFIG, "prot": 1, "port": "x", "host": 7})

    done = keymux.run("check")

    assert done.code == 1
    assert done.out == ""
    assert all(path in done.err for path in ("$.prot: no such field", "$.port: ", "$.host: "))


def test_programs_read_the_problems(keymux: Program) -> None:
    """--json has path and problem of each."""
    keymux.configure({**CONFIG, "prot": 1})

    done = keymux.run("check", "--json")

    assert done.code == 1
    assert done.json == {
        "config": str(keymux.config),
        "sound": False,
        "problems": [{"path": "$.prot", "problem": "no such field"}],
    }


def test_programs_read_that_all_is_well(keymux: Program) -> None:
    """--json has the same fields when nothing is wrong."""
    assert keymux.good("check", "--json").json == {
        "config": str(keymux.config),
        "sound": True,
        "problems": [],
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param("\x00", id="no text"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_file_that_is_no_config_is_explained(keymux: Program, text: str) -> None:
    """A broken file is a message, not a traceback."""
    keymux.config.write_text(text)

    done = keymux.run("check")

    assert done.code == 1
    assert "$" in done.err
    assert "Traceback" not in done.err


def test_a_missing_config_is_explained(keymux: Program) -> None:
    """Every command that needs a config says which one it looked for, and how to name another."""
    done = keymux.run("keys", "list", "alpha", "--config", "elsewhere.json")

    assert done.code == 1
    assert "elsewhere.json" in done.err
    assert "--config" in done.err


def test_the_option_goes_before_the_environment(keymux: Program) -> None:
    """--config overrides KEYMUX_CONFIG."""
    done = keymux.run("check", "-c", str(keymux.config), KEYMUX_CONFIG="nowhere.json")

    assert done.code == 0


def test_a_secret_of_the_environment_is_not_printed(keymux: Program) -> None:
    """A value that came from env.NAME and is wrong stays out of the message's neighbourhood."""
    keymux.configure({**CONFIG, "log": {"level": "env.WRONG"}})

    done = keymux.run("check", WRONG="sk-env-0123456789")

    assert done.code == 1
    assert "sk-env-0123456789" not in done.err


def test_the_schema_accepts_what_check_accepts(keymux: Program) -> None:
    """The printed schema is one, and the config of these tests fits it."""
    schema = keymux.good("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.validate(json.loads(keymux.config.read_text()), schema)

    assert schema["title"] == "keymux config"
    assert schema["additionalProperties"] is False


def test_the_schema_refuses_what_check_refuses(keymux: Program) -> None:
    """An editor marks an unknown field."""
    schema = keymux.good("schema").json

    with pytest.raises(jsonschema.ValidationError, match="prot"):
        jsonschema.validate({**CONFIG, "prot": 1}, schema)
