"""The list of models, for callers who may not use all of them."""

import msgspec
import pytest

from keymux.core.faults import UnknownModel
from keymux.core.routing import Model, Routes
from keymux.core.vocabulary import Caller, Route, Target
from keymux.ingress import models


def _model(name: str, created: int = 0) -> Model:
    route = Route(name, (Target("acme", name),))
    return Model(id=name, name=name.title(), created=created, route=route)


ROUTES = Routes([(_model("one", 86_400), ("first",)), (_model("two"), ()), (_model("three"), ())])


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        pytest.param((), ["one", "two", "three"], id="all of them"),
        pytest.param(("three", "one"), ["one", "three"], id="some, in the order of the config"),
        pytest.param(("gone",), [], id="one that is gone"),
    ],
)
def test_a_caller_sees_what_it_may_use(allowed: tuple[str, ...], expected: list[str]) -> None:
    """With the first and the last id, as one of the SDKs pages by them."""
    page = msgspec.json.decode(models.listed(ROUTES, Caller("client_1", models=allowed)))

    assert [model["id"] for model in page["data"]] == expected
    assert page["first_id"] == (expected[0] if expected else None)
    assert page["last_id"] == (expected[-1] if expected else None)


def test_a_model_is_found_by_its_alias() -> None:
    """It says its id, and its date in both ways."""
    found = msgspec.json.decode(models.one(ROUTES, Caller("client_1"), "first"))

    assert found["id"] == "one"
    assert found["display_name"] == "One"
    assert (found["created"], found["created_at"]) == (86_400, "1970-01-02T00:00:00Z")


@pytest.mark.parametrize("name", ["two", "nobody", "", "x" * 500])
def test_what_a_caller_may_not_use_is_not_there(name: str) -> None:
    """It learns nothing of it, and the message stays short."""
    with pytest.raises(UnknownModel) as caught:
        models.one(ROUTES, Caller("client_1", models=("one",)), name)

    assert len(caught.value.message) < 300
