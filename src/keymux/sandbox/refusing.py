"""Behaviours that answer with an error status, each in the words of the provider it plays."""

import json
from datetime import UTC, datetime
from email.utils import formatdate
from types import MappingProxyType
from typing import Literal, assert_never

from keymux.core.vocabulary import WireFormat
from keymux.sandbox import dialects, loose
from keymux.sandbox.answer import Answer
from keymux.sandbox.asked import Headers
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.scene import Scene
from keymux.sandbox.wrong import Wrong

Said = Literal["seconds", "milliseconds", "date", "reset"]
_SPENT = MappingProxyType(
    {
        "budget400": dialects.BUDGET_400,
        "budget429": dialects.BUDGET_429,
        "balance402": dialects.BALANCE_402,
        "quota429": dialects.QUOTA_429,
        "credit400": dialects.CREDIT_400,
    }
)


def wait_headers(scene: Scene, seconds: float | None, said: Said = "seconds") -> Headers:
    """How long to stay away, in one of the ways that providers say it."""
    if seconds is None:
        return ()
    match said:
        case "seconds":
            return (("retry-after", f"{seconds:g}"),)
        case "milliseconds":
            return (("retry-after-ms", f"{seconds * 1000:.0f}"),)
        case "date":
            return (("retry-after", formatdate(scene.now + seconds, usegmt=True)),)
        case "reset":
            return _reset_headers(scene, seconds)
        case _:
            assert_never(said)


def _reset_headers(scene: Scene, seconds: float) -> Headers:
    if scene.format is WireFormat.ANTHROPIC:
        moment = datetime.fromtimestamp(scene.now + seconds, UTC).isoformat()
        return (
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", moment),
        )
    return (
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", f"{seconds:g}s"),
    )


class Throttled(Behaviour, frozen=True):
    """Answers 429: over the rate limit.

    Attributes:
        retry_after: seconds to wait, None to say nothing of it.
        said: in which header and notation.
        verbatim: a ``Retry-After`` of one's own, however odd.
    """

    retry_after: float | None = 30
    said: Said = "seconds"
    verbatim: str = ""

    def _answer(self, scene: Scene) -> Answer:
        wrong = Wrong(
            429,
            "This request would exceed the rate limit of your organization; try again later.",
            code="rate_limit_exceeded",
        )
        told = wait_headers(scene, self.retry_after, self.said)
        return scene.wrong(wrong, *((("retry-after", self.verbatim),) if self.verbatim else told))


class SlowDown(Behaviour, frozen=True):
    """Answers 429: the rate of requests rises too fast."""

    retry_after: float | None = None

    def _answer(self, scene: Scene) -> Answer:
        wrong = Wrong(
            429,
            "Slow down: usage rises faster than the acceleration limit allows.",
            code="slow_down",
        )
        return scene.wrong(wrong, *wait_headers(scene, self.retry_after))


class Spent(Behaviour, frozen=True):
    """Answers that budget, balance or quota are used up, as the dialect does or in a named way."""

    variant: Literal["", "budget400", "budget429", "balance402", "quota429", "credit400"] = ""

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(_SPENT[self.variant] if self.variant else scene.dialect.spent)


class Revoked(Behaviour, frozen=True):
    """Answers 401: the key was revoked or blocked."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(scene.dialect.revoked)


class Rejected(Behaviour, frozen=True):
    """Answers 401 as to a key that nobody knows."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(scene.dialect.rejected(scene.asked.key))


class Banned(Behaviour, frozen=True):
    """Answers 403: the account was banned."""

    def _answer(self, scene: Scene) -> Answer:
        message = "Your account has been banned for violating the terms of service."
        return scene.wrong(Wrong(403, message, type="account_banned", at_edge=True))


class Forbidden(Behaviour, frozen=True):
    """Answers 403 without a reason."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(Wrong(403, "Forbidden."))


class Region(Behaviour, frozen=True):
    """Answers 403: this country, region or territory is not served."""

    def _answer(self, scene: Scene) -> Answer:
        code = "unsupported_country_region_territory"
        wrong = Wrong(403, "Country, region, or territory not supported", type=code, code=code)
        if scene.format is WireFormat.ANTHROPIC:
            wrong = Wrong(403, "The API is not available in your region.", type="forbidden")
        return scene.wrong(wrong)


class NoSuchModel(Behaviour, frozen=True):
    """Answers 404: there is no such model."""

    def _answer(self, scene: Scene) -> Answer:
        model = _model(scene)
        if scene.format is WireFormat.ANTHROPIC:
            return scene.wrong(Wrong(404, f"model: {model}"))
        return scene.wrong(scene.dialect.no_such_model(model))


class ModelDenied(Behaviour, frozen=True):
    """Answers 403: there is such a model, but not for this key."""

    def _answer(self, scene: Scene) -> Answer:
        message = f"key not allowed to access model. Tried to access {_model(scene)}."
        return scene.wrong(Wrong(403, message, type="key_model_access_denied", at_edge=True))


def _model(scene: Scene) -> str:
    asked = loose.mapping(loose.decode(scene.asked.body))
    return loose.text(asked.get("model")) or scene.asked.place.model


class Refused(Behaviour, frozen=True):
    """Answers 400, the client's fault, in JSON with odd spacing and escapes."""

    def _answer(self, scene: Scene) -> Answer:
        wrong = Wrong(400, "messages.0: Input should be an object, not \u201cm\u00fcsli\u201d")
        body = scene.dialect.error(wrong, scene.format, scene.identity)
        spaced = json.dumps(body, separators=(" ,  ", " :\t"), indent=1)
        return scene.json(400, f"\r\n {spaced} \n\n".encode())


class ContextTooLong(Behaviour, frozen=True):
    """Answers 400: the prompt does not fit the context."""

    def _answer(self, scene: Scene) -> Answer:
        message = "prompt is too long: 210000 tokens > 200000 maximum"
        return scene.wrong(Wrong(400, message, code="context_length_exceeded"))


class ContentRefused(Behaviour, frozen=True):
    """Answers 400: the content policy refuses the request."""

    def _answer(self, scene: Scene) -> Answer:
        message = "The request was refused by the content policy."
        return scene.wrong(Wrong(400, message, code="content_policy_violation"))


class Status(Behaviour, frozen=True):
    """Answers any error status, with the words that belong to it."""

    status: int = 418
    retry_after: float | None = None

    def _answer(self, scene: Scene) -> Answer:
        wrong = Wrong(self.status, f"The sandbox answers {self.status}.")
        return scene.wrong(wrong, *wait_headers(scene, self.retry_after))


class Overloaded(Behaviour, frozen=True):
    """Answers 529 or 503: too much to do."""

    status: Literal[529, 503] = 529
    retry_after: float | None = None

    def _answer(self, scene: Scene) -> Answer:
        wrong = Wrong(self.status, "Overloaded", type="overloaded_error")
        return scene.wrong(wrong, *wait_headers(scene, self.retry_after))


class ServerError(Behaviour, frozen=True):
    """Answers 500."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(Wrong(500, "Internal server error"))


class BadGateway(Behaviour, frozen=True):
    """Answers 502 with a page of the provider's edge."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.page(502, _edge_page("502 Bad Gateway"))


class GatewayTimeout(Behaviour, frozen=True):
    """Answers 504 with a page of the provider's edge."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.page(504, _edge_page("504 Gateway Time-out"))


class Redirect(Behaviour, frozen=True):
    """Answers a redirect to another path of the sandbox, or to anywhere."""

    location: str = "/elsewhere"
    status: Literal[301, 302, 303, 307, 308] = 302

    def _answer(self, scene: Scene) -> Answer:
        return scene.page(self.status, b"", ("location", self.location))


class Html(Behaviour, frozen=True):
    """Answers 200 with a page, as a captive portal does."""

    def _answer(self, scene: Scene) -> Answer:
        return scene.page(
            200,
            b"<!DOCTYPE html>\n<html><head><title>Welcome</title></head>"
            b"<body><form>Sign in to use this network.</form></body></html>\n",
        )


def _edge_page(title: str) -> bytes:
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()
