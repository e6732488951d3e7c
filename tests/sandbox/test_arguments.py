"""Made-up arguments satisfy the schema that asked for them."""

from typing import Any

import jsonschema
import pytest

from keymux.sandbox.arguments import arguments_for


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {
        "node": _object(
            name={"type": "string"}, children={"type": "array", "items": {"$ref": "#/$defs/node"}}
        )
    },
}


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(
            _object(
                text={"type": "string"},
                count={"type": "integer"},
                share={"type": "number"},
                sure={"type": "boolean"},
                nothing={"type": "null"},
                names={"type": "array", "items": {"type": "string"}},
                place=_object(street={"type": "string"}),
            ),
            id="every type",
        ),
        pytest.param(_object(unit={"enum": ["celsius", "kelvin"]}), id="an enumeration"),
        pytest.param(_object(kind={"const": "file"}), id="a constant"),
        pytest.param(_object(name={"type": ["null", "string"]}), id="an optional type"),
        pytest.param(
            _object(either={"anyOf": [{"type": "integer"}, {"type": "null"}]}), id="a choice"
        ),
        pytest.param(
            _object(
                code={"type": "string", "minLength": 12},
                short={"type": "string", "maxLength": 2},
                pair={"type": "array", "minItems": 2, "items": {"type": "number"}},
            ),
            id="limits of length",
        ),
        pytest.param(
            _object(
                year={"type": "integer", "minimum": 1900},
                above={"type": "number", "exclusiveMinimum": 9},
                below={"type": "number", "exclusiveMaximum": 0},
                share={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ),
            id="limits of numbers",
        ),
        pytest.param(TREE, id="a schema that refers to itself"),
        pytest.param({"type": "object"}, id="no fields at all"),
    ],
)
def test_arguments_satisfy_their_schema(schema: dict[str, Any]) -> None:
    """A validator accepts what was made up."""
    jsonschema.validate(arguments_for(schema), schema)


def test_only_required_fields_are_given() -> None:
    """What may be left out is left out."""
    schema = _object(a={"type": "integer"}) | {
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}
    }

    assert arguments_for(schema) == {"a": 7}


def test_strings_carry_the_marker() -> None:
    """A mixed-up tool call can be told from the right one."""
    assert arguments_for(_object(a={"type": "string"}), "marker:x") == {"a": "marker:x"}


def test_a_schema_without_end_is_given_up() -> None:
    """No value can satisfy it, and none is sought for ever."""
    schema = _object(next={"$ref": "#"})

    assert set(arguments_for(schema)) == {"next"}
