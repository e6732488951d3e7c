"""What a provider answers, and which fault that is."""

import json

from keymux.core.faults import Answer, UpstreamFault
from keymux.providers import CATALOGUE
from keymux.providers.base import read_fault
from keymux.wire.upstream_error import read_complaint

HELLO = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'


def fault_of(
    name: str, status: int, body: object, *, request: bytes = HELLO, told: float | None = None
) -> UpstreamFault:
    """The fault that an answer of a provider stands for.

    Args:
        name: the provider dialect.
        status: of its answer.
        body: of its answer; JSON unless it is bytes.
        request: that it answers.
        told: seconds that it asks us to wait.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    complaint = read_complaint(status, raw)
    answer = Answer(complaint.status, "application/json", raw)
    return read_fault(CATALOGUE[name], complaint, answer, request=request, told=told)


def says(message: str, **more: object) -> dict[str, object]:
    """An error in the shape that both original APIs share."""
    return {"error": {"message": message, **more}}
