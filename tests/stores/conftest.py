"""What all tests of stores need."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that keymux runs on."""
    return "asyncio"
