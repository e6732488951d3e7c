"""What is sent for an exchange, and how long it may take to begin."""

import msgspec
import pytest

from keymux.core import faults
from keymux.core.retrying import first_steps
from keymux.core.vocabulary import Metering, Operation, Route, Target, WireFormat
from keymux.exchange.dispatch import body_for
from keymux.exchange.ports import ClientRequest
from keymux.exchange.serve import Terms
from keymux.settings import Timeouts
from keymux.wire import openai_chat
from tests.exchange.rig import ANTHROPIC_PATH, MODEL, OPENAI_PATH, House, Visitor, asked
from tests.pools.rig import PROVIDER


def _request(body: bytes) -> ClientRequest:
    head = openai_chat.read_head(body)
    return ClientRequest(
        "req_1",
        openai_chat.FORMAT,
        Operation.GENERATE,
        head.kind,
        head.model,
        head.stream,
        head.wants_usage,
        head.max_tokens,
        body,
        (),
        "",
        is_client_retry=False,
    )


def _sent(body: bytes, model: str, metering: Metering = Metering.EXACT) -> bytes:
    route = Route(MODEL, (Target(PROVIDER, model),), metering=metering)
    return body_for(_request(body), route, model)


def test_what_needs_no_change_is_not_touched() -> None:
    """Byte for byte, spaces and order included."""
    body = b'{ "messages":[],  "model" : "m" ,"x":1.0e2}'

    assert _sent(body, "m") is body


def test_only_the_name_of_the_model_is_another() -> None:
    """Nothing else of the body is written anew."""
    body = b'{"x": "\\u00e9", "model" : "m", "n": 1e400, "n": 2, "tool": {"model": "m"}}'

    assert _sent(body, "other") == body.replace(b'"model" : "m"', b'"model" : "other"')


def test_a_name_that_stands_twice_is_the_same_twice() -> None:
    """Whichever of them the upstream reads."""
    body = b'{"model": "a", "messages": [], "model": "m"}'

    assert _sent(body, "m").count(b'"m"') == 2


@pytest.mark.parametrize(
    ("metering", "asks"),
    [
        pytest.param(Metering.EXACT, True, id="exact"),
        pytest.param(Metering.PASSTHROUGH, False, id="passthrough"),
    ],
)
def test_a_stream_is_asked_for_usage(*, metering: Metering, asks: bool) -> None:
    """Where the operator wants exact figures, and there only."""
    body = asked(stream=True)
    sent = msgspec.json.decode(_sent(body, MODEL, metering))

    assert sent.get("stream_options", {}).get("include_usage", False) is asks


@pytest.mark.parametrize(
    ("path", "other"),
    [
        pytest.param(OPENAI_PATH, "anthropic", id="OpenAI"),
        pytest.param(ANTHROPIC_PATH, "openai", id="Anthropic"),
    ],
)
def test_a_format_that_nobody_speaks_is_refused(path: str, other: str) -> None:
    """With the one that works."""
    house = House()
    steps = dict.fromkeys(house.terms.steps, ())
    house.terms = Terms(house.terms.routes, steps, house.terms.rules)
    visitor = house.visit(Visitor(asked()), path=path)

    assert visitor.status == 400
    assert f"use the {other} API" in visitor.body.decode()
    assert house.book.rows[0].fault == "format_not_served"


def test_a_model_may_think_longer() -> None:
    """Its own time to the first event counts before the general one."""
    house = House(900.0, keys=("a",), timeouts=Timeouts(first_event_s=120, overall_s=600))
    route = Route(MODEL, (Target(PROVIDER, "m"),), first_event_s=300.0)
    model = house.terms.routes.models[MODEL]
    routes = type(house.terms.routes)([(msgspec.structs.replace(model, route=route), ())])
    steps = {(MODEL, WireFormat.OPENAI, Operation.GENERATE): first_steps(route)}
    house.terms = Terms(routes, steps, house.terms.rules)
    visitor = house.visit(Visitor(asked(stream=True)))

    assert b"upstream_timeout" in visitor.body
    assert 1300.0 <= house.clock.now < 1301.0


def test_without_a_ready_key_the_wait_is_short() -> None:
    """Two seconds, then the answer says when to come back."""
    house = House(keys=())
    visitor = house.visit(Visitor(asked()))

    assert visitor.status == 503
    assert int(visitor.headers["retry-after"]) > 0
    assert house.clock.now <= 1002.5


def test_the_last_fault_is_the_last_word() -> None:
    """When no key is left for another attempt, the client hears of the one that failed."""
    house = House(faults.NoReply(), keys=("a",))
    visitor = house.visit(Visitor(asked()))

    assert visitor.json()["error"]["code"] == "upstream_no_reply"
    assert visitor.headers["x-should-retry"] == "false"
