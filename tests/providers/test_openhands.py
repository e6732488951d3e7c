"""What a LiteLLM proxy says, in the words of its old and its new versions."""

import pytest

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from tests.providers.complaints import fault_of, says

NESTED = (
    'litellm.{kind}: AnthropicException - b\'{{"type":"error","error":{{"type":"{type}",'
    '"message":"{words}"}}}}\''
)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(
            400,
            says(
                "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0",
                type="budget_exceeded",
                param=None,
                code="400",
            ),
            faults.KeySpent,
            id="a spent key in old versions",
        ),
        pytest.param(
            429,
            says(
                "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0",
                type="budget_exceeded",
                param=None,
                code="429",
            ),
            faults.KeySpent,
            id="a spent key in new versions",
        ),
        pytest.param(
            400,
            says(
                "ExceededBudget: User=u-1 over budget. Spend=3.1, Budget=3.0",
                type="auth_error",
                code="400",
            ),
            faults.KeySpent,
            id="a spent user",
        ),
        pytest.param(
            400,
            says("Authentication Error, ExceededTokenBudget: Current spend for token: 3.1"),
            faults.KeySpent,
            id="a spent key as an authentication error",
        ),
        pytest.param(
            400,
            says(
                NESTED.format(
                    kind="BadRequestError",
                    type="invalid_request_error",
                    words="Your credit balance is too low to access the API.",
                )
            ),
            faults.KeySpent,
            id="the account behind the proxy is spent",
        ),
        pytest.param(
            401,
            says(
                "Authentication Error, Invalid proxy server token passed. Received API Key = "
                "sk-...abcd, Key Hash (Token) =1f00. Unable to find token in cache or db",
                type="token_not_found_in_db",
                code="401",
            ),
            faults.KeyRejected,
            id="a key that it does not know",
        ),
        pytest.param(
            400,
            says("Authentication Error - Expired Key.", type="expired_key", code="400"),
            faults.KeyRejected,
            id="a key that ran out",
        ),
        pytest.param(
            401,
            says("Authentication Error, Key is blocked. Update via `/key/unblock`."),
            faults.KeyRevoked,
            id="a blocked key",
        ),
        pytest.param(403, says("Key is blocked."), faults.KeyRevoked, id="the same as a 403"),
        pytest.param(
            400, says("x: Key is blocked."), faults.RequestRefused, id="the words elsewhere"
        ),
        pytest.param(
            401,
            says("litellm.AuthenticationError: AnthropicException - invalid x-api-key"),
            faults.Unavailable,
            id="the proxy's own key with the vendor is refused",
        ),
        pytest.param(
            403,
            says("litellm.PermissionDeniedError: AnthropicException - no"),
            faults.Unavailable,
            id="the proxy may not do it itself",
        ),
        pytest.param(
            401,
            says("x litellm.AuthenticationError"),
            faults.KeyRejected,
            id="the name of the exception elsewhere",
        ),
        pytest.param(
            403,
            says(
                "key not allowed to access model. This key can only access models=['a'].",
                type="key_model_access_denied",
                param="model",
                code="401",
            ),
            faults.ModelNotPermitted,
            id="a model the key may not use",
        ),
        pytest.param(
            429,
            says("No deployments available for selected model, Try again in 60 seconds."),
            faults.KeyThrottled,
            id="all of its own deployments cool down",
        ),
        pytest.param(
            429,
            says("litellm.RateLimitError: AnthropicException - rate limited", code="429"),
            faults.KeyThrottled,
            id="the vendor behind it throttles",
        ),
        pytest.param(
            400,
            says(
                NESTED.format(
                    kind="BadRequestError",
                    type="invalid_request_error",
                    words="prompt is too long: 210000 tokens > 200000 maximum",
                )
            ),
            faults.ContextTooLong,
            id="a prompt that is too long",
        ),
        pytest.param(
            503,
            says("litellm.ServiceUnavailableError: Overloaded"),
            faults.Unavailable,
            id="the vendor behind it is not there",
        ),
        pytest.param(
            500,
            says("litellm.InternalServerError: AnthropicException - Overloaded", code="500"),
            faults.ServerFailed,
            id="it failed itself",
        ),
    ],
)
def test_what_it_says(status: int, body: object, expected: type[UpstreamFault]) -> None:
    """Body first, then status: a spent key is 400 or 429 depending on the version."""
    assert type(fault_of("openhands", status, body)) is expected
