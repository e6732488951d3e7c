"""What OhMyGPT says, in its own shape and in the two it copies."""

import pytest

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from tests.providers.complaints import fault_of, says


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(
            402,
            {
                "statusCode": 402,
                "message": "Insufficient account balance",
                "errorType": "insufficient_balance_error",
            },
            faults.KeySpent,
            id="no balance",
        ),
        pytest.param(
            200,
            {"statusCode": 402, "message": "", "errorType": "insufficient_balance_error"},
            faults.KeySpent,
            id="no balance, inside a success",
        ),
        pytest.param(
            400,
            {"statusCode": 400, "message": "", "errorType": "INSUFFICIENT_BALANCE_ERROR"},
            faults.KeySpent,
            id="no balance, by its name alone",
        ),
        pytest.param(402, {"statusCode": 402, "message": "x"}, faults.KeySpent, id="402 alone"),
        pytest.param(402, b"", faults.KeySpent, id="402 without a word"),
        pytest.param(
            401,
            {"statusCode": 401, "message": "Invalid token", "errorType": "auth_error"},
            faults.KeyRejected,
            id="a key that it does not know",
        ),
        pytest.param(
            403,
            {"statusCode": 403, "message": "Your account has been banned.", "errorType": "x"},
            faults.KeyRevoked,
            id="a banned account",
        ),
        pytest.param(
            429,
            {"statusCode": 429, "message": "Too many requests", "errorType": "rate_limit_error"},
            faults.KeyThrottled,
            id="too many requests",
        ),
        pytest.param(
            200,
            {"statusCode": 429, "message": "Too many requests", "errorType": "x"},
            faults.KeyThrottled,
            id="too many requests, inside a success",
        ),
        pytest.param(
            400,
            {"statusCode": 400, "message": "max_tokens is required", "errorType": "bad_request"},
            faults.RequestRefused,
            id="a wrong request",
        ),
        pytest.param(
            500,
            {"statusCode": 500, "message": "oops", "errorType": "internal_error"},
            faults.ServerFailed,
            id="it failed",
        ),
        pytest.param(
            429,
            says("You exceeded your current quota", type="insufficient_quota"),
            faults.KeySpent,
            id="no balance, as OpenAI says it",
        ),
        pytest.param(
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            faults.Overloaded,
            id="overloaded, as Anthropic says it",
        ),
    ],
)
def test_what_it_says(status: int, body: object, expected: type[UpstreamFault]) -> None:
    """Its own shape and both original ones."""
    assert type(fault_of("ohmygpt", status, body)) is expected


def test_the_word_of_its_own_error_is_booked() -> None:
    """The reason in logs and ledger is its name for the error."""
    body = {"statusCode": 402, "message": "x", "errorType": "insufficient_balance_error"}

    assert fault_of("ohmygpt", 402, body).reason == "402 insufficient_balance_error"
