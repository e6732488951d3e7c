"""The decision table, written down a second time from the rules it comes from."""

import pytest

from keymux.core.faults import Blame, UpstreamFault
from keymux.core.retrying import DECISIONS, Effect, Row
from keymux.core.vocabulary import Kind
from tests.core.trouble import UPSTREAM_FAULTS

# One line a fault: what the upstream can have done; what is tried next for paid work, for
# repeatable requests and for stateful ones; and the first words of what it does to health.
RULES = """
Unreachable         | none    | other provider                                | =                  | same key once | provider away, 5 to 60 s
CertificateRejected | none    | other provider                                | =                  |               | provider away, 5 to 60 s
EgressFailed        | none    | next binding, other key, other provider       | =                  | next binding  | egress away until a check
EgressRefused       | none    | next binding, other key, other provider       | =                  | next binding  | egress away until an operator
StaleConnection     | none    | same key once                                 | =                  | same key once | nothing
RequestCut          | none    | other key, other provider                     | =                  | same key once | provider error counted
NoReply             | unknown | other key, other provider                     | =                  |               | provider error counted
FirstEventLate      | unknown | other key, other provider                     | =                  |               | failure of key and model
UpstreamTimedOut    | unknown | other provider, other key                     | =                  |               | provider error counted
ServerFailed        | unknown | other key once, other provider                | =                  |               | failure of key and model
BadGateway          | unknown | other provider, same provider once            | =                  |               | provider away, 5 to 60 s
Unavailable         | none    | other provider, same provider once            | =                  |               | provider away, 5 to 60 s
Overloaded          | none    | other provider, same provider once            | =                  |               | provider away until the told
KeyThrottled        | none    | other quota group, other provider             | =                  |               | quota group and model away until
SlowDown            | none    | other quota group, other provider             | =                  |               | quota group and model away as
KeySpent            | none    | other quota group, other provider             | =                  |               | quota group exhausted
KeyRejected         | none    | other key once, other provider, other key     | =                  |               | key suspected
KeyRevoked          | none    | other quota group, other provider             | =                  |               | quota group quarantined
PolicyBlocked       | none    |                                               | =                  |               | provider blocked
ModelNotPermitted   | none    | other key, other provider                     | =                  |               | key not used for this model
Forbidden           | none    | other key once, other provider                | =                  |               | nothing
RequestRefused      | none    |                                               | =                  |               | nothing
ContextTooLong      | none    |                                               | =                  |               | nothing
ContentRefused      | none    |                                               | =                  |               | nothing
OperationMissing    | none    | other provider                                | =                  |               | nothing
Redirected          | none    |                                               | =                  |               | provider away, 5 to 60 s
Unintelligible      | unknown | other provider                                | =                  |               | provider error counted
EmptyReply          | unknown | other key, other provider                     | =                  |               | provider error counted
Truncated           | done    |                                               | other key, other provider |        | provider error counted
StreamBroken        | done    |                                               | =                  |               | provider error counted
StreamFailed        | done    |                                               | =                  |               | provider error counted
StreamStalled       | done    |                                               | =                  |               | provider error counted
DrainLate           | done    |                                               | =                  |               | nothing
"""  # noqa: E501 -- a table reads across

AMBIGUOUS = {"NoReply", "FirstEventLate", "UpstreamTimedOut", "EmptyReply"}
IN_THEIR_WORDS = {
    "UpstreamTimedOut",
    "ServerFailed",
    "BadGateway",
    "Unavailable",
    "Overloaded",
    "Forbidden",
    "RequestRefused",
    "ContextTooLong",
    "ContentRefused",
}
ONLY_WITH_HALF_THE_TIME = {"FirstEventLate"}
NOT_COUNTED = {"StaleConnection"}

BY_NAME = {fault.__name__: fault for fault in UPSTREAM_FAULTS}
LINES = [[cell.strip() for cell in line.split("|")] for line in RULES.strip().splitlines()]
CELLS = [
    pytest.param(BY_NAME[name], kind, cell, id=f"{name} of a {kind} request")
    for name, _, paid, repeatable, stateful, _ in LINES
    for kind, cell in (
        (Kind.GENERATION, paid),
        (Kind.REPEATABLE, paid if repeatable == "=" else repeatable),
        (Kind.STATEFUL, stateful),
    )
]


def _row(name: str) -> Row:
    return DECISIONS[BY_NAME[name]]


def test_every_fault_of_an_upstream_has_its_line() -> None:
    """A new fault is not forgotten, here or in the table."""
    assert {line[0] for line in LINES} == {fault.__name__ for fault in DECISIONS}


@pytest.mark.parametrize(("fault", "kind", "cell"), CELLS)
def test_what_is_tried_next(fault: type[UpstreamFault], kind: Kind, cell: str) -> None:
    """Each cell lists the ways to go on in order; an empty one means: tell the client."""
    moves = DECISIONS[fault].moves(kind)

    assert ", ".join(moves) == cell


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line[0]))
def test_what_the_upstream_can_have_done(line: list[str]) -> None:
    """Work that may have been done is paid for, so it decides how often one may try."""
    assert _row(line[0]).work == line[1]


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line[0]))
def test_what_it_does_to_health(line: list[str]) -> None:
    """A fault is charged to what failed, and to nothing else."""
    effect = _row(line[0]).effect
    expected = line[5].replace("nothing", "none")

    assert effect.startswith(expected)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_marks_of_a_row(name: str) -> None:
    """Ambiguous, in the upstream's words, only with half the time, counted: as the rules say."""
    row = _row(name)
    marks = (row.ambiguous, row.theirs, row.needs_half, row.counted)

    assert marks == (
        name in AMBIGUOUS,
        name in IN_THEIR_WORDS,
        name in ONLY_WITH_HALF_THE_TIME,
        name not in NOT_COUNTED,
    )


@pytest.mark.parametrize("fault", UPSTREAM_FAULTS, ids=lambda fault: str(fault.__name__))
def test_only_what_is_blamed_is_harmed(fault: type[UpstreamFault]) -> None:
    """A fault of the client or of nobody has no effect on any key or provider; others have one."""
    is_harmless = DECISIONS[fault].effect is Effect.NONE

    assert is_harmless == (fault.blame in {Blame.CLIENT, Blame.NOBODY})


@pytest.mark.parametrize(
    "fault",
    [fault for fault in UPSTREAM_FAULTS if fault.blame is Blame.CLIENT],
    ids=lambda fault: str(fault.__name__),
)
def test_a_mistake_of_the_client_goes_back_to_it(fault: type[UpstreamFault]) -> None:
    """It is not tried again, and the client hears the provider's own words."""
    row = DECISIONS[fault]

    assert (row.generation, row.repeatable, row.stateful, row.theirs) == ((), (), (), True)
