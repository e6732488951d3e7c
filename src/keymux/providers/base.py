"""What there is to know about a provider dialect, and how its errors are read.

An error is read from its body first and from its status second, because providers do not agree on
statuses: a spent key of a LiteLLM proxy answers 400 in one version and 429 in the next.
"""

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType

from msgspec import Struct

from keymux.core import faults
from keymux.core.faults import Answer, Blame, UpstreamFault
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers.signs import Sign, sign
from keymux.wire.upstream_error import Complaint

Headers = tuple[tuple[str, str], ...]


_IS_DEAD = (
    r"(?:api key|key|account|organi[sz]ation|workspace)(?: \S+)? (?:has been|have been|is|was)"
    r" (?:\w+ )?(?:revoked|deactivated|disabled|suspended|banned|terminated|blocked)\b"
)
_IS_SPENT = (
    r"exceeded\w*budget|budget has been exceeded|over budget|exceeded budget for"
    r"|credit balance is too low|insufficient (?:account )?(?:balance|quota|credits?|funds)"
    r"|exceeded your current quota"
)

# What both wire formats and the proxies in front of them are known to say. Sources: the error pages
# of the OpenAI and Anthropic API references, LiteLLM's exception types, recordings (2026-11).
COMMON_SIGNS: tuple[Sign, ...] = (
    sign(
        faults.KeyRevoked,
        "account_deactivated",
        "key_revoked",
        "api_key_revoked",
        "access_terminated",
    ),
    sign(
        faults.KeyRevoked,
        statuses=(400, 401, 403),
        first_words=rf"(?:(?:this|your|the) )?{_IS_DEAD}|your api key was reported as leaked",
    ),
    sign(
        faults.KeyRevoked,
        statuses=(401, 403),
        words=rf"\b{_IS_DEAD}|\baccess (?:has been|is|was) (?:revoked|suspended|terminated)\b",
    ),
    sign(
        faults.KeySpent,
        "insufficient_quota",
        "budget_exceeded",
        "exceededbudget",
        "insufficient_balance_error",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "enforced_spend_limit_reached",
        "insufficient_user_quota",
    ),
    sign(
        faults.KeySpent,
        statuses=(400, 401),
        first_words=rf"(?:you |your |(?:end )?user=\S+ )?(?:{_IS_SPENT})",
    ),
    sign(faults.KeySpent, statuses=(402, 403, 429), words=rf"{_IS_SPENT}|spend(?:ing)? limit"),
    sign(
        faults.PolicyBlocked,
        "unsupported_country_region_territory",
        "ip_not_authorized",
        "ip_address_not_allowed",
    ),
    sign(
        faults.PolicyBlocked,
        statuses=(403,),
        words=r"country, region|region is not supported|not available in your (?:country|region)"
        r"|\b(?:ip|ip address)\b.{0,30}\bnot (?:allowed|authori[sz]ed|permitted)",
    ),
    sign(faults.ContextTooLong, "context_length_exceeded", "context_too_long"),
    sign(
        faults.ContextTooLong,
        statuses=(400,),
        words=r"prompt is too long|maximum context length"
        r"|exceeds? (?:the )?context (?:limit|window)",
    ),
    sign(faults.ContentRefused, "content_policy_violation", "content_filter", "invalid_prompt"),
    sign(
        faults.KeyRejected,
        "api_key_invalid",
        "invalid_api_key",
        "token_not_found_in_db",
        "expired_key",
    ),
    sign(
        faults.KeyRejected,
        statuses=(400,),
        first_words=r"api key (?:is )?(?:not valid|invalid|expired)",
    ),
    sign(
        faults.ModelNotPermitted,
        "key_model_access_denied",
        "team_model_access_denied",
        "user_model_access_denied",
        "org_model_access_denied",
        "model_not_allowed",
    ),
    sign(
        faults.ModelNotPermitted,
        statuses=(403,),
        words=r"model.{0,80}(?:access|permission|allow|permit)"
        r"|(?:access|permission|allow).{0,80}model",
    ),
    sign(faults.ModelNotPermitted, "model_not_found", statuses=(404,)),
    # With the model's name, because every request holds the word "model" itself.
    sign(faults.ModelNotPermitted, "not_found_error", statuses=(404,), words=r"^model:? \S+"),
    sign(faults.SlowDown, "slow_down"),
    sign(faults.SlowDown, statuses=(429,), words=r"acceleration limit|slow down"),
    sign(faults.Overloaded, "overloaded_error", "overloaded", "engine_overloaded"),
)

_BY_STATUS: Mapping[int, type[UpstreamFault]] = MappingProxyType(
    {
        401: faults.KeyRejected,
        402: faults.KeySpent,
        403: faults.Forbidden,
        408: faults.UpstreamTimedOut,
        425: faults.UpstreamTimedOut,
        429: faults.KeyThrottled,
        500: faults.ServerFailed,
        502: faults.BadGateway,
        503: faults.Unavailable,
        504: faults.UpstreamTimedOut,
        **dict.fromkeys(range(520, 525), faults.UpstreamTimedOut),
        529: faults.Overloaded,
    }
)


def bearer(secret: str, wire_format: WireFormat) -> Headers:  # noqa: ARG001 -- same in both formats
    """``Authorization: Bearer``, which nearly every provider takes."""
    return (("authorization", f"Bearer {secret}"),)


class Provider(Struct, frozen=True):
    """A provider dialect.

    Attributes:
        name: what ``kind`` says in the config.
        title: for people.
        base_url: used when the config names none; empty if it has to.
        paths: where each operation of each format is served, below the base URL. A format that is
            missing is not spoken.
        sign: secret, format → the headers that carry the secret.
        signs: how its errors read, before the common signs are tried.
        test_path: a free GET that needs the key, for `keymux keys test`.
        request_id_headers: under which its answers carry their request id.
    """

    name: str
    title: str
    paths: Mapping[tuple[WireFormat, Operation], str]
    base_url: str = ""
    sign: Callable[[str, WireFormat], Headers] = bearer
    signs: tuple[Sign, ...] = ()
    test_path: str = "/v1/models"
    request_id_headers: tuple[str, ...] = ("request-id", "x-request-id")

    def speaks(self, wire_format: WireFormat) -> bool:
        """Whether it serves a format at all."""
        return (wire_format, Operation.GENERATE) in self.paths

    def fault(
        self, complaint: Complaint, *, request: bytes, told: float | None
    ) -> type[UpstreamFault]:
        """What a complaint means.

        Args:
            complaint: the error as read from body and status.
            request: the body that was sent; words it holds itself are no signs.
            told: seconds the provider asked us to wait, if it did.
        """
        for mark in (*self.signs, *COMMON_SIGNS):
            if mark.is_met(complaint, request):
                return mark.fault
        return _by_status(complaint, told)


def _by_status(complaint: Complaint, told: float | None) -> type[UpstreamFault]:
    status = complaint.status
    if status == HTTPStatus.SERVICE_UNAVAILABLE and told is not None:
        return faults.Overloaded
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return faults.ServerFailed
    return faults.RequestRefused


BOTH_FORMATS: Mapping[tuple[WireFormat, Operation], str] = MappingProxyType(
    {
        (WireFormat.OPENAI, Operation.GENERATE): "/v1/chat/completions",
        (WireFormat.ANTHROPIC, Operation.GENERATE): "/v1/messages",
        (WireFormat.ANTHROPIC, Operation.COUNT_TOKENS): "/v1/messages/count_tokens",
    }
)
"""Where a provider that copies both original APIs serves them."""


def read_fault(
    provider: Provider, complaint: Complaint, answer: Answer, *, request: bytes, told: float | None
) -> UpstreamFault:
    """The fault that an answer stands for, ready to raise."""
    kind = provider.fault(complaint, request=request, told=told)
    retry_after = None if kind.blame is Blame.CLIENT else told
    return kind(answer=answer, told=told, retry_after=retry_after, reason=_reason(complaint))


_LONGEST_NAME = 60
_NO_NAME = re.compile(r"[^a-z0-9_.-]+")


def _reason(complaint: Complaint) -> str:
    name = _NO_NAME.sub("_", complaint.code or complaint.type)[:_LONGEST_NAME]
    return f"{complaint.status} {name}".strip()
