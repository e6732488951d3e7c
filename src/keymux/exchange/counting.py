"""Counting tokens: where no provider does it, a marked estimate does.

A refusal would cost the caller more: Claude Code falls back to counting with a paid request.
"""

from collections.abc import Callable, Sequence

import msgspec

from keymux.core.faults import Blame, Fault, FormatNotServed, OperationMissing
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target, Usage
from keymux.exchange.peek import PlainReply
from keymux.exchange.ports import AnswerHead, RawHeaders
from keymux.wire.estimate import prompt_tokens

REMEMBERED_S = 3600.0


class Lacking:
    """Targets that do not count tokens, remembered for an hour.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[Target, float] = {}

    def note(self, target: Target, fault: Fault) -> None:
        """Remember a target if the fault says that it does not count."""
        if isinstance(fault, OperationMissing):
            self._until[target] = self._clock() + REMEMBERED_S

    def without(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The steps to targets that may count."""
        now = self._clock()
        return [step for step in steps if self._until.get(step.target, now) <= now]


class _Estimate(msgspec.Struct, frozen=True):
    """The head of an answer of our own."""

    status: int = 200
    content_type: str = "application/json"
    headers: RawHeaders = (
        (b"content-type", b"application/json"),
        (b"x-keymux-estimated", b"true"),
    )
    request_id: str = ""


_HEAD: AnswerHead = _Estimate()


def may_be_estimated(fault: Fault) -> bool:
    """Whether a count that failed this way is worth an estimate: not if the request is at fault."""
    return isinstance(fault, FormatNotServed) or fault.blame is not Blame.CLIENT


def estimated(body: bytes) -> PlainReply:
    """The answer to a request for a count, at least 1 and marked as an estimate."""
    counted = msgspec.json.encode({"input_tokens": prompt_tokens(body)})
    return PlainReply(_HEAD, counted, Usage())
