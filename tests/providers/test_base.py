"""How errors read that are the same with every provider.

Every line of the tables is one answer: status, type or code, message, and the fault it stands for.
A new wording is a new line.
"""

import json

import pytest

from keymux.core import faults
from keymux.core.faults import Blame, UpstreamFault
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE
from keymux.providers.base import BOTH_FORMATS, Provider, bearer, read_fault
from keymux.providers.signs import sign
from keymux.wire.upstream_error import Complaint
from tests.providers.complaints import fault_of, says

EVERY_PROVIDER = pytest.mark.parametrize("name", sorted(CATALOGUE))
NAMED: list[tuple[int, str, type[UpstreamFault]]] = [
    (401, "account_deactivated", faults.KeyRevoked),
    (401, "key_revoked", faults.KeyRevoked),
    (401, "api_key_revoked", faults.KeyRevoked),
    (403, "access_terminated", faults.KeyRevoked),
    (429, "insufficient_quota", faults.KeySpent),
    (400, "budget_exceeded", faults.KeySpent),
    (429, "budget_exceeded", faults.KeySpent),
    (400, "ExceededBudget", faults.KeySpent),
    (402, "insufficient_balance_error", faults.KeySpent),
    (403, "credit_balance_exhausted", faults.KeySpent),
    (429, "billing_hard_limit_reached", faults.KeySpent),
    (429, "billing_not_active", faults.KeySpent),
    (403, "billing_error", faults.KeySpent),
    (429, "enforced_spend_limit_reached", faults.KeySpent),
    (403, "insufficient_user_quota", faults.KeySpent),
    (403, "unsupported_country_region_territory", faults.PolicyBlocked),
    (401, "ip_not_authorized", faults.PolicyBlocked),
    (403, "ip_address_not_allowed", faults.PolicyBlocked),
    (400, "context_length_exceeded", faults.ContextTooLong),
    (413, "context_too_long", faults.ContextTooLong),
    (400, "content_policy_violation", faults.ContentRefused),
    (400, "content_filter", faults.ContentRefused),
    (400, "invalid_prompt", faults.ContentRefused),
    (400, "API_KEY_INVALID", faults.KeyRejected),
    (401, "invalid_api_key", faults.KeyRejected),
    (401, "token_not_found_in_db", faults.KeyRejected),
    (400, "expired_key", faults.KeyRejected),
    (401, "key_model_access_denied", faults.ModelNotPermitted),
    (403, "team_model_access_denied", faults.ModelNotPermitted),
    (403, "user_model_access_denied", faults.ModelNotPermitted),
    (403, "org_model_access_denied", faults.ModelNotPermitted),
    (403, "model_not_allowed", faults.ModelNotPermitted),
    (404, "model_not_found", faults.ModelNotPermitted),
    (400, "model_not_found", faults.RequestRefused),
    (404, "not_found_error", faults.RequestRefused),
    (429, "slow_down", faults.SlowDown),
    (503, "slow_down", faults.SlowDown),
    (529, "overloaded_error", faults.Overloaded),
    (503, "overloaded", faults.Overloaded),
    (429, "engine_overloaded", faults.Overloaded),
    (500, "overloaded_error", faults.Overloaded),
    (429, "rate_limit_error", faults.KeyThrottled),
    (401, "authentication_error", faults.KeyRejected),
    (403, "permission_error", faults.Forbidden),
    (400, "invalid_request_error", faults.RequestRefused),
    (409, "conflict_error", faults.RequestRefused),
    (413, "request_too_large", faults.RequestRefused),
    (500, "api_error", faults.ServerFailed),
    (504, "timeout_error", faults.UpstreamTimedOut),
]
SAID: list[tuple[int, str, type[UpstreamFault]]] = [
    # the key, its account or its organisation is gone
    (401, "This API key has been revoked.", faults.KeyRevoked),
    (401, "Your account has been deactivated, please check your email.", faults.KeyRevoked),
    (400, "This organization has been disabled.", faults.KeyRevoked),
    (403, "Your account has been banned for violating the terms of service.", faults.KeyRevoked),
    (403, "Sorry: the workspace was temporarily suspended", faults.KeyRevoked),
    (401, "key sk-...abcd is blocked", faults.KeyRevoked),
    (403, "Your API key was reported as leaked. Please use another API key.", faults.KeyRevoked),
    (401, "your api key was reported as leaked", faults.KeyRevoked),
    (403, "Access has been terminated.", faults.KeyRevoked),
    (401, "Your access was revoked by an administrator", faults.KeyRevoked),
    (400, "The field is not valid: your account has been banned", faults.RequestRefused),
    (404, "This API key has been revoked.", faults.RequestRefused),
    # no money, no quota
    (400, "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", faults.KeySpent),
    (400, "ExceededBudget: User sk-1 over budget", faults.KeySpent),
    (400, "ExceededTokenBudget: Current spend for token: 7.2", faults.KeySpent),
    (400, "Your credit balance is too low to access the Anthropic API.", faults.KeySpent),
    (400, "Insufficient account balance", faults.KeySpent),
    (401, "Insufficient credits", faults.KeySpent),
    (402, "Payment required", faults.KeySpent),
    (403, "The team's spending limit is reached", faults.KeySpent),
    (429, "You exceeded your current quota, please check your plan.", faults.KeySpent),
    (429, "The workspace is over its spend limit", faults.KeySpent),
    (429, "Sorry, insufficient funds", faults.KeySpent),
    (400, "max_tokens: insufficient funds of tokens", faults.RequestRefused),
    (500, "Budget has been exceeded", faults.ServerFailed),
    # where one may not be
    (403, "Country, region, or territory not supported", faults.PolicyBlocked),
    (403, "The API is not available in your region.", faults.PolicyBlocked),
    (403, "This region is not supported", faults.PolicyBlocked),
    (403, "Your IP address 1.2.3.4 is not allowed to access this", faults.PolicyBlocked),
    (403, "IP not authorised", faults.PolicyBlocked),
    (400, "Country, region, or territory not supported", faults.RequestRefused),
    # the request
    (400, "prompt is too long: 210000 tokens > 200000 maximum", faults.ContextTooLong),
    (400, "This model's maximum context length is 128000 tokens.", faults.ContextTooLong),
    (
        400,
        "input length and `max_tokens` exceed context limit: 1 + 2 > 3",
        faults.ContextTooLong,
    ),
    (400, "The input exceeds the context window of this model", faults.ContextTooLong),
    (429, "prompt is too long", faults.KeyThrottled),
    (400, "messages.0: Input should be an object", faults.RequestRefused),
    (404, "Not Found", faults.RequestRefused),
    (409, "Conflict", faults.RequestRefused),
    (410, "Gone", faults.RequestRefused),
    (413, "Request exceeds the maximum size", faults.RequestRefused),
    (418, "I am a teapot", faults.RequestRefused),
    (422, "Unprocessable", faults.RequestRefused),
    # the key
    (400, "API key not valid. Please pass a valid API key.", faults.KeyRejected),
    (400, "api key is expired", faults.KeyRejected),
    (400, "The field 'x': api key not valid", faults.RequestRefused),
    (401, "invalid x-api-key", faults.KeyRejected),
    (401, "", faults.KeyRejected),
    # the model
    (403, "Your organization has no access to the model claude-x.", faults.ModelNotPermitted),
    (403, "You have no permission to use this model", faults.ModelNotPermitted),
    (403, "model claude-x: access denied", faults.ModelNotPermitted),
    (403, "Forbidden.", faults.Forbidden),
    # too much, too fast
    (429, "This request would exceed your acceleration limit", faults.SlowDown),
    (429, "Please slow down", faults.SlowDown),
    (429, "Too many requests", faults.KeyThrottled),
    (408, "", faults.UpstreamTimedOut),
    (425, "", faults.UpstreamTimedOut),
    # the server
    (500, "Internal server error", faults.ServerFailed),
    (501, "Not implemented", faults.ServerFailed),
    (502, "Bad gateway", faults.BadGateway),
    (503, "Service unavailable", faults.Unavailable),
    (504, "Gateway timeout", faults.UpstreamTimedOut),
    (505, "", faults.ServerFailed),
    (519, "", faults.ServerFailed),
    (520, "", faults.UpstreamTimedOut),
    (521, "", faults.UpstreamTimedOut),
    (522, "", faults.UpstreamTimedOut),
    (523, "", faults.UpstreamTimedOut),
    (524, "", faults.UpstreamTimedOut),
    (525, "", faults.ServerFailed),
    (529, "", faults.Overloaded),
    (599, "", faults.ServerFailed),
]


def _by_words(line: tuple[int, str, type[UpstreamFault]]) -> str:
    return f"{line[0]} {line[1]}"


@EVERY_PROVIDER
@pytest.mark.parametrize("line", NAMED, ids=_by_words)
def test_what_an_error_is_by_its_name(
    name: str, line: tuple[int, str, type[UpstreamFault]]
) -> None:
    """The name counts wherever it stands, as the type or as the code, before the status does."""
    status, word, expected = line

    assert type(fault_of(name, status, says("", type=word))) is expected
    assert type(fault_of(name, status, says("", code=word))) is expected


@EVERY_PROVIDER
@pytest.mark.parametrize("line", SAID, ids=_by_words)
def test_what_an_error_is_by_its_words(
    name: str, line: tuple[int, str, type[UpstreamFault]]
) -> None:
    """The message counts with the statuses that go with it, in any case; else the status does."""
    status, words, expected = line

    assert type(fault_of(name, status, says(words))) is expected
    assert type(fault_of(name, status, says(words.upper()))) is expected


@EVERY_PROVIDER
@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(
            404, says("model: claude-x", type="not_found_error"), faults.ModelNotPermitted
        ),
        pytest.param(404, says("no such model", type="not_found_error"), faults.RequestRefused),
        pytest.param(200, says("Overloaded", type="overloaded_error"), faults.Overloaded),
        pytest.param(200, says("Slow", code="rate_limit_exceeded"), faults.KeyThrottled),
        pytest.param(200, says("broken"), faults.ServerFailed),
        pytest.param(502, b"<html>502 Bad Gateway</html>", faults.BadGateway),
        pytest.param(403, b"<html>Country, region</html>", faults.PolicyBlocked),
        pytest.param(401, b"", faults.KeyRejected),
        pytest.param(400, b'{"error":' * 50_000, faults.RequestRefused),
    ],
    ids=[
        "a model that is not there",
        "something else that is not there",
        "overloaded, as an event of a stream",
        "throttled, as an event of a stream",
        "an event of a stream that says nothing",
        "a page of an edge",
        "a page with words that count",
        "nothing but a status",
        "a tower of braces",
    ],
)
def test_other_shapes(name: str, status: int, body: object, expected: type[UpstreamFault]) -> None:
    """Streams, pages, empty bodies."""
    assert type(fault_of(name, status, body)) is expected


@EVERY_PROVIDER
def test_a_time_to_come_back_makes_unavailable_overloaded(name: str) -> None:
    """A 503 that says when to come back comes from a provider that is merely busy."""
    assert type(fault_of(name, 503, says("later"), told=5.0)) is faults.Overloaded
    assert type(fault_of(name, 503, says("later"), told=0.0)) is faults.Overloaded
    assert type(fault_of(name, 500, says("later"), told=5.0)) is faults.ServerFailed


# -- a client cannot talk a key into anything ------------------------------------------------------
QUOTED = [
    (401, "Your account has been banned", faults.KeyRejected),
    (403, "spending limit", faults.Forbidden),
    (403, "country, region", faults.Forbidden),
    (400, "prompt is too long", faults.RequestRefused),
    (400, "API key not valid", faults.RequestRefused),
    (403, "no access to the model", faults.Forbidden),
    (429, "slow down", faults.KeyThrottled),
    (400, "Budget has been exceeded", faults.RequestRefused),
]


@EVERY_PROVIDER
@pytest.mark.parametrize("line", QUOTED, ids=_by_words)
def test_words_of_the_request_are_no_signs(
    name: str, line: tuple[int, str, type[UpstreamFault]]
) -> None:
    """An error that repeats what the client wrote says nothing about the key."""
    status, words, expected = line
    request = json.dumps({"model": "m", "messages": [{"content": words.title()}]}).encode()

    assert type(fault_of(name, status, says(words), request=request)) is expected


# -- what a fault carries --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        pytest.param(Complaint(429, "kind", "code"), "429 code", id="the code first"),
        pytest.param(Complaint(429, "kind"), "429 kind", id="else the type"),
        pytest.param(Complaint(429), "429", id="else the status alone"),
        pytest.param(Complaint(400, code="a b\n<c>"), "400 a_b_c_", id="odd letters"),
        pytest.param(Complaint(400, code="x" * 99), "400 " + "x" * 60, id="far too long"),
        pytest.param(Complaint(400, code="é"), "400 _", id="another script"),
    ],
)
def test_the_reason_is_short_and_plain(complaint: Complaint, expected: str) -> None:
    """It goes into logs and labels."""
    answer = faults.Answer(complaint.status, "", b"")
    fault = read_fault(CATALOGUE["openai"], complaint, answer, request=b"{}", told=None)

    assert fault.reason == expected


def test_a_fault_carries_the_answer_and_the_time() -> None:
    """What the upstream said, and when to come back, both for the pool and for the client."""
    fault = fault_of("openai", 429, says("Too many"), told=7.0)

    assert fault.answer is not None
    assert fault.answer.status == 429
    assert (fault.told, fault.retry_after) == (7.0, 7.0)


def test_a_client_to_blame_is_not_told_to_come_back() -> None:
    """The same request would be as wrong later."""
    fault = fault_of("openai", 400, says("No"), told=7.0)

    assert fault.blame is Blame.CLIENT
    assert (fault.told, fault.retry_after) == (7.0, None)


# -- the declaration -------------------------------------------------------------------------------
def test_signs_of_the_provider_itself_come_first() -> None:
    """What it says means what its own file says, whatever it means elsewhere."""
    provider = Provider(
        name="own",
        title="Own",
        paths=BOTH_FORMATS,
        signs=(sign(faults.Overloaded, "insufficient_quota"),),
    )
    complaint = Complaint(429, code="insufficient_quota", told=True)

    assert provider.fault(complaint, request=b"{}", told=None) is faults.Overloaded


def test_a_format_without_a_path_is_not_spoken() -> None:
    """A path for counting alone serves nothing."""
    counts = {(WireFormat.ANTHROPIC, Operation.COUNT_TOKENS): "/count"}
    provider = Provider(name="own", title="Own", paths=counts)

    assert not provider.speaks(WireFormat.ANTHROPIC)
    assert not provider.speaks(WireFormat.OPENAI)


@pytest.mark.parametrize("wire_format", list(WireFormat))
def test_most_keys_are_bearers(wire_format: WireFormat) -> None:
    """In both formats."""
    assert bearer("sk-1", wire_format) == (("authorization", "Bearer sk-1"),)
