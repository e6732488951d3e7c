"""A sandbox for each test, in a thread of its own and in a hurry."""

from collections.abc import Iterator

import pytest

from keymux.sandbox import Sandbox
from keymux.sandbox.answer import Pace
from keymux.sandbox.apart import SandboxThread


@pytest.fixture
def sandbox() -> Iterator[SandboxThread]:
    """A sandbox that does not pause between events."""
    with SandboxThread(Sandbox(pace=Pace(gap_s=0.0))) as running:
        yield running
