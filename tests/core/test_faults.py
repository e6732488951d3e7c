"""Every failure has a name, a status and words that stay what they are."""

import string
from typing import Any

import pytest

from keymux.core import faults
from keymux.core.faults import Answer, Blame, Fault, UpstreamFault, leaves

# Clients and dashboards know these; a code that changes breaks them.
CODES = """
bad_request                   400 client
invalid_client_key            401 client
not_allowed                   403 client
model_not_found               404 client
unknown_path                  404 client
method_not_allowed            405 client
request_timeout               408 client
length_required               411 client
request_too_large             413 client
unsupported_encoding          415 client
headers_too_large             431 client
format_not_served             400 client
too_many_requests             429 client
client_stalled                499 client
no_capacity                   503 gateway
rate_limited                  429 gateway
egress_unavailable            503 egress
deadline_reached              504 gateway
overloaded                    503 gateway
draining                      503 gateway
store_unavailable             503 gateway
internal                      500 gateway
client_gone                   499 nobody
upstream_unreachable          502 provider
upstream_certificate_rejected 502 provider
egress_failed                 503 egress
egress_refused                503 egress
stale_connection              502 nobody
upstream_refused_stream       502 provider
upstream_no_reply             502 provider
upstream_timeout              504 provider
upstream_gateway_timeout      504 provider
upstream_error                502 provider
upstream_bad_gateway          502 provider
upstream_unavailable          503 provider
upstream_overloaded           503 provider
key_throttled                 429 quota group
key_slow_down                 429 quota group
key_spent                     503 quota group
key_rejected                  503 key
key_revoked                   503 quota group
upstream_policy               502 provider
model_not_permitted           503 key
upstream_forbidden            403 nobody
request_refused               400 client
context_too_long              400 client
content_refused               400 client
operation_missing             404 nobody
upstream_redirected           502 provider
upstream_unintelligible       502 provider
upstream_empty                502 provider
upstream_truncated            502 provider
stream_broken                 502 provider
stream_failed                 502 provider
stream_stalled                504 provider
stream_not_closed             502 nobody
"""


def facts_of(kind: type[Fault]) -> dict[str, Any]:
    """Something for every brace in a fault's words."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.says) if name}
    return dict.fromkeys(names - {"retry_after_s"}, "X")


def test_the_public_codes_stay() -> None:
    """Code, status and blame of every fault, in the order of the tree."""
    lines = [f"{kind.code} {kind.status} {kind.blame}" for kind in leaves()]
    known = [" ".join(line.split()) for line in CODES.strip().splitlines()]

    assert lines == known


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: str(kind.__name__))
def test_every_fault_says_what_was_wrong(kind: type[Fault]) -> None:
    """With the facts of the raise, a message is a whole sentence without braces."""
    message = kind(**facts_of(kind)).message

    assert message
    assert not set(message) & set("{}")
    assert message == "X" or message.endswith(".")


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: str(kind.__name__))
def test_every_fault_is_explained(kind: type[Fault]) -> None:
    """The docstring is a sentence for the table of errors."""
    assert (kind.__doc__ or "").strip().endswith(".")


def test_facts_are_never_read_as_templates() -> None:
    """Braces in what a client sent stay braces."""
    fault = faults.UnknownModel(model="{problem} {0}")

    assert fault.message.startswith("The model '{problem} {0}' is not served")


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        pytest.param(None, "1 s", id="unknown counts as one"),
        pytest.param(0.0, "1 s", id="never none"),
        pytest.param(1.2, "2 s", id="rounded up"),
        pytest.param(60.0, "60 s", id="whole seconds"),
    ],
)
def test_a_message_tells_when_to_try_again(retry_after: float | None, seconds: str) -> None:
    """In whole seconds, never too early."""
    fault = faults.NoneReady(model="m", retry_after=retry_after)

    assert fault.message.endswith(f"try again in {seconds}.")


def test_a_fault_carries_the_facts_of_its_raise() -> None:
    """For the ledger and for whoever catches it."""
    fault = faults.RequestTooLarge(limit=5, retry_after=2.0)

    assert (fault.facts, fault.retry_after) == ({"limit": 5}, 2.0)


def test_an_upstream_fault_carries_what_the_upstream_said() -> None:
    """Answer, told time and reason, all optional."""
    answer = Answer(429, "application/json", b"{}")
    fault = faults.KeyThrottled(answer=answer, told=7.0, reason="429", retry_after=7.0)
    bare = faults.KeyThrottled()

    assert (fault.answer, fault.told, fault.reason, fault.retry_after) == (answer, 7.0, "429", 7.0)
    assert (bare.answer, bare.told, bare.reason, bare.retry_after) == (None, None, "", None)


def test_leaves_are_what_can_be_raised() -> None:
    """Branches have no code; a leaf that has leaves of its own counts as well."""
    found = leaves()

    assert faults.NoneReady in found
    assert faults.AllThrottled in found
    assert not {Fault, UpstreamFault, faults.ClientFault, faults.GatewayFault} & set(found)
    assert set(leaves(UpstreamFault)) < set(found)


def test_blame_is_told_in_words() -> None:
    """As the vocabulary has them."""
    assert [str(blame) for blame in Blame] == [
        "client",
        "key",
        "quota group",
        "egress",
        "provider",
        "gateway",
        "nobody",
    ]
