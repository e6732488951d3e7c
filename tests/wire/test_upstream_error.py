"""Whatever shape an error comes in, its status, type, code and words are found."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.wire.upstream_error import Complaint, read_complaint

DEEP = b'{"error":' * 100_000
REFUSED = Complaint(400, "invalid_request_error", "", "no", told=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {"error": {"message": "No", "type": "Some_Error", "param": None, "code": "SOME_CODE"}},
            Complaint(400, "some_error", "some_code", "No", told=True),
            id="OpenAI, in capitals",
        ),
        pytest.param(
            {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}},
            REFUSED,
            id="Anthropic",
        ),
        pytest.param(
            {"statusCode": 402, "message": "no", "errorType": "insufficient_balance_error"},
            Complaint(400, "insufficient_balance_error", "", "no", told=True),
            id="a status of its own, which the real one outranks",
        ),
        pytest.param(
            {"error": {"message": "no", "type": None, "code": "400"}},
            Complaint(400, "", "400", "no", told=True),
            id="a type that is null",
        ),
        pytest.param(
            {"error": {"message": "no", "type": 7, "code": 400}},
            Complaint(400, "", "", "no", told=True),
            id="type and code that are numbers",
        ),
        pytest.param(
            {"error": {"message": ["no"], "msg": "no"}},
            Complaint(400, "", "", "", told=True),
            id="a message that is a list",
        ),
        pytest.param(
            {"error": {"type": "", "errorType": "x", "msg": "no"}},
            Complaint(400, "x", "", "no", told=True),
            id="an empty type beside another",
        ),
        pytest.param({"error": "no"}, Complaint(400, "", "", "no", told=True), id="a bare string"),
        pytest.param(
            {"error": "bad", "message": "no", "code": "X"},
            Complaint(400, "", "x", "no", told=True),
            id="a bare string beside a message",
        ),
        pytest.param({"detail": "no"}, Complaint(400, "", "", "no", told=True), id="a detail"),
        pytest.param(
            {"detail": [{"loc": ["body"], "msg": "no", "type": "missing"}, {"msg": "more"}]},
            Complaint(400, "missing", "", "no", told=True),
            id="a list of complaints",
        ),
        pytest.param(
            [{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}],
            Complaint(400, "", "", "no", told=True),
            id="wrapped in a list of one",
        ),
        pytest.param({"message": "no"}, Complaint(400, "", "", "no", told=True), id="a message"),
        pytest.param({"error": {}}, Complaint(400), id="an error that says nothing"),
        pytest.param({"error": None}, Complaint(400), id="an error that is null"),
        pytest.param({"error": [], "detail": 5}, Complaint(400), id="no error worth the name"),
        pytest.param({"id": "x"}, Complaint(400), id="another object"),
        pytest.param([], Complaint(400), id="an empty list"),
        pytest.param(None, Complaint(400), id="null"),
        pytest.param("no", Complaint(400), id="a word"),
    ],
)
def test_the_shapes_of_errors(body: object, expected: Complaint) -> None:
    """Type and code in small letters, the message as it is; a shape nobody knows tells nothing."""
    assert read_complaint(400, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"<html>502 Bad Gateway</html>", "<html>502 Bad Gateway</html>", id="a page"),
        pytest.param(b"\xff\xfe" + b"x" * 600, "��" + "x" * 498, id="bytes, of which the start"),
        pytest.param(DEEP, DEEP[:500].decode(), id="a tower of braces"),
        pytest.param(b'{"error":{"message":"no"', '{"error":{"message":"no"', id="half an error"),
    ],
)
def test_what_is_no_error_in_json(body: bytes, message: str) -> None:
    """The status stays, the first words are kept for the signs, and nothing counts as told."""
    assert read_complaint(502, body) == Complaint(502, message=message)


def test_half_a_surrogate_pair_hides_nothing() -> None:
    """Errors quote requests, and requests hold such text."""
    found = read_complaint(400, rb'{"error":{"type":"invalid_request_error","message":"\ud800!"}}')

    assert found == Complaint(400, "invalid_request_error", "", "�!", told=True)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        pytest.param({"type": "overloaded_error"}, 529, id="Anthropic: overloaded"),
        pytest.param({"type": "rate_limit_error"}, 429, id="a rate limit"),
        pytest.param({"code": "rate_limit_exceeded"}, 429, id="a rate limit as the code"),
        pytest.param({"type": "invalid_request_error"}, 400, id="a wrong request"),
        pytest.param({"type": "authentication_error"}, 401, id="a wrong key"),
        pytest.param({"type": "billing_error"}, 402, id="no money"),
        pytest.param({"type": "permission_error"}, 403, id="not allowed"),
        pytest.param({"type": "not_found_error"}, 404, id="not there"),
        pytest.param({"type": "conflict_error"}, 409, id="a conflict"),
        pytest.param({"type": "request_too_large"}, 413, id="too large"),
        pytest.param({"type": "api_error"}, 500, id="Anthropic: broken"),
        pytest.param({"type": "server_error"}, 500, id="OpenAI: broken"),
        pytest.param({"type": "internal_server_error"}, 500, id="broken in other words"),
        pytest.param({"type": "timeout_error"}, 504, id="took too long"),
        pytest.param({"type": "x", "code": "overloaded_error"}, 529, id="the code knows it"),
        pytest.param({"type": "x", "code": "y"}, 500, id="words nobody knows"),
        pytest.param({"message": "something"}, 500, id="no words at all"),
        pytest.param({"code": 503}, 503, id="a status as a number"),
        pytest.param({"code": "429"}, 429, id="a status as digits"),
        pytest.param({"statusCode": 402, "code": 429}, 402, id="a status that is called so"),
        pytest.param({"statusCode": 200, "code": 429}, 429, id="a status that is none"),
        pytest.param({"code": "1302", "type": "api_error"}, 500, id="a code with four digits"),
        pytest.param({"code": "5 3"}, 500, id="a code that is no number"),
        pytest.param({"code": 399}, 500, id="below the errors"),
        pytest.param({"code": 400}, 400, id="the first of the errors"),
        pytest.param({"code": 599}, 599, id="the last of the errors"),
        pytest.param({"code": 600}, 500, id="above the errors"),
        pytest.param({"code": True}, 500, id="true is no number"),
        pytest.param({"code": 4e2}, 500, id="a number with a fraction"),
        pytest.param({"code": "٤٠٤"}, 500, id="digits of another script"),
        pytest.param({"type": "api_error", "code": 429}, 429, id="a number outranks the words"),
    ],
)
def test_an_error_inside_a_success_names_its_status(
    details: dict[str, object], expected: int
) -> None:
    """By number, else by the words that stand for one, else it is the server's own failure."""
    body = json.dumps({"error": details}).encode()

    assert read_complaint(200, body).status == expected


def test_a_status_below_the_errors_is_none() -> None:
    """A 200 or 302 without a word of JSON counts as a failure of the server."""
    assert read_complaint(200, b"hello").status == 500
    assert read_complaint(302, b"").status == 500
    assert read_complaint(600, b"{}").status == 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "type", "code", "message", "errorType", "msg"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(100, 999), json_values.map(lambda value: json.dumps(value).encode()))
def test_every_json_is_read(status: int, body: bytes) -> None:
    """Nothing an upstream writes raises, and the status is always that of an error."""
    found = read_complaint(status, body)

    assert 400 <= found.status <= 599
    assert found.type == found.type.lower()


@given(st.integers(100, 999), st.binary(max_size=60))
def test_all_bytes_are_read(status: int, body: bytes) -> None:
    """JSON or not."""
    assert 400 <= read_complaint(status, body).status <= 599
