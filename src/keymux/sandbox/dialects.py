"""The two providers that the sandbox pretends to be, and how each tells what only it can know."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType

from msgspec import Struct

from keymux.core.vocabulary import WireFormat
from keymux.sandbox.asked import Headers
from keymux.sandbox.wrong import (
    Wrong,
    anthropic_error,
    litellm_error,
    ohmygpt_error,
    openai_error,
)

BUDGET_400 = Wrong(
    400,
    "ExceededBudget: Key over budget. Budget has been exceeded! "
    "Current cost: 10.0042, Max budget: 10.0",
    type="budget_exceeded",
    at_edge=True,
)
BUDGET_429 = Wrong(
    429,
    "Budget has been exceeded! Current cost: 10.0042, Max budget: 10.0",
    type="budget_exceeded",
    at_edge=True,
)
BALANCE_402 = Wrong(
    402,
    "The balance of this account does not cover the request; top it up to go on.",
    type="insufficient_balance_error",
    at_edge=True,
)
QUOTA_429 = Wrong(
    429,
    "You exceeded your current quota, please check your plan and billing details.",
    type="insufficient_quota",
    code="insufficient_quota",
)
CREDIT_400 = Wrong(
    400, "Your credit balance is too low to access the API. Go to Plans & Billing to add credits."
)


class Dialect(Struct, frozen=True):
    """A provider as the sandbox plays it.

    Attributes:
        name: first segment of its paths.
        edge_error: the shape of its own errors.
        chat_error: the shape of a model's errors in the OpenAI format.
        headers: of every answer of its own, by the answer's id.
        rejected: what it says to a key it does not know.
        revoked: what it says to a key that was taken back.
        spent: what it says when nothing is left.
        no_such_model: what it says, in the OpenAI format, to a model that there is not.
    """

    name: str
    edge_error: Callable[[Wrong], dict[str, object]]
    chat_error: Callable[[Wrong], dict[str, object]]
    headers: Callable[[str], Headers]
    rejected: Callable[[str], Wrong]
    revoked: Wrong
    spent: Wrong
    no_such_model: Callable[[str], Wrong]

    def error(self, wrong: Wrong, wire_format: WireFormat, identity: str) -> dict[str, object]:
        """The body of an error answer."""
        if wrong.at_edge:
            return self.edge_error(wrong)
        if wire_format is WireFormat.ANTHROPIC:
            return anthropic_error(wrong, identity)
        return self.chat_error(wrong)


def _litellm_headers(identity: str) -> Headers:
    return (
        ("server", "uvicorn"),
        ("x-litellm-call-id", identity),
        ("x-litellm-key-spend", "0.0421"),
        ("x-litellm-response-cost", "0.000412"),
    )


def _ohmygpt_headers(identity: str) -> Headers:
    return (("server", "cloudflare"), ("cf-ray", f"{identity[:16]}-FRA"))


def _unknown_to_litellm(key: str) -> Wrong:
    """A LiteLLM proxy echoes the ends of the key and the hash of all of it (read 2026-11)."""
    if not key:
        return Wrong(401, "Authentication Error, No api key passed in.", "auth_error", at_edge=True)
    return Wrong(
        401,
        "Authentication Error, Invalid proxy server token passed. Received API Key = "
        f"sk-...{key[-4:]}, Key Hash (Token) ={sha256(key.encode()).hexdigest()}. "
        "Unable to find token in cache or `LiteLLM_VerificationTokenTable`",
        type="token_not_found_in_db",
        at_edge=True,
    )


def _unknown_to_ohmygpt(key: str) -> Wrong:
    message = "The API key is not valid." if key else "The request shows no API key."
    return Wrong(401, message, type="authentication_error", at_edge=True)


def _unserved_by_litellm(model: str) -> Wrong:
    """A LiteLLM proxy names its exception and repeats the words of the model's API."""
    message = f"litellm.NotFoundError: AnthropicException - model: {model}. No fallbacks."
    return Wrong(404, message, type="None")


def _unserved_by_ohmygpt(model: str) -> Wrong:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Wrong(404, message, code="model_not_found")


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "openhands": Dialect(
            name="openhands",
            edge_error=litellm_error,
            chat_error=litellm_error,
            headers=_litellm_headers,
            rejected=_unknown_to_litellm,
            revoked=Wrong(
                401,
                "Authentication Error, Key is blocked. Update via `/key/unblock` if you're admin.",
                type="auth_error",
                at_edge=True,
            ),
            spent=BUDGET_429,
            no_such_model=_unserved_by_litellm,
        ),
        "ohmygpt": Dialect(
            name="ohmygpt",
            edge_error=ohmygpt_error,
            chat_error=openai_error,
            headers=_ohmygpt_headers,
            rejected=_unknown_to_ohmygpt,
            revoked=Wrong(
                401,
                "This API key has been revoked by its owner.",
                type="authentication_error",
                at_edge=True,
            ),
            spent=BALANCE_402,
            no_such_model=_unserved_by_ohmygpt,
        ),
    }
)
"""By name; the default is `keymux.sandbox.asked.DEFAULT_DIALECT`."""
