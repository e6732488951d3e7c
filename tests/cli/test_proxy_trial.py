"""What a test of an egress proxy makes of what was known of it."""

import pytest

from keymux.cli.proxy_trial import after_failure, after_success
from keymux.core.egress import ExitState
from keymux.core.health import Status

WELL = ExitState(generation=3)
DOWN = ExitState(Status.ERROR, 500, "timed out", 2, 4)
REFUSED = ExitState(Status.ERROR, None, "refused the credentials", 1, 4)
BLOCKED = ExitState(Status.QUARANTINED, None, "403 region", 1, 4)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(WELL, WELL, id="well already"),
        pytest.param(DOWN, ExitState(generation=5), id="down"),
        pytest.param(REFUSED, ExitState(generation=5), id="had refused the credentials"),
        pytest.param(BLOCKED, BLOCKED, id="refused by the provider, which a handshake cannot tell"),
    ],
)
def test_a_success(before: ExitState, after: ExitState) -> None:
    """A change of status is a new generation; all else stays."""
    assert after_success(before) == after


@pytest.mark.parametrize(
    ("before", "until", "after"),
    [
        pytest.param(WELL, 900, ExitState(Status.ERROR, 900, "why", 1, 4), id="well, now down"),
        pytest.param(
            WELL, None, ExitState(Status.ERROR, None, "why", 1, 4), id="well, now refused"
        ),
        pytest.param(DOWN, 900, DOWN, id="down already: the gateway's own checks go on"),
        pytest.param(
            DOWN, None, ExitState(Status.ERROR, None, "why", 3, 5), id="down, now refused"
        ),
        pytest.param(REFUSED, 900, REFUSED, id="refused: an operator has to act anyway"),
        pytest.param(REFUSED, None, REFUSED, id="refused again"),
        pytest.param(BLOCKED, None, BLOCKED, id="blocked: an operator has to act anyway"),
    ],
)
def test_a_failure(before: ExitState, until: int | None, after: ExitState) -> None:
    """The same; what waits for an operator waits for an operator."""
    assert after_failure(before, "why", until) == after
