"""Everything that was started in the background is ended."""

import asyncio
from contextlib import suppress

from keymux.background import Background


async def _stopped() -> list[str]:
    """Stop a task that loses its first cancellation, and one that is just beginning."""
    told: list[str] = []
    background = Background(lambda name, trace: told.append(f"{name}: {trace}"))
    begun = asyncio.Event()

    async def deaf_once() -> None:
        with suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.sleep(3600)
        told.append("went on")
        await asyncio.sleep(3600)

    background.spawn(deaf_once())
    await begun.wait()
    background.spawn(asyncio.sleep(3600))
    async with asyncio.timeout(30):
        await background.stop()
    return [*told, f"left: {len(background)}"]


def test_a_lost_cancellation_is_repeated() -> None:
    """`asyncio.wait_for` of Python 3.11 drops one that comes together with its result."""
    assert asyncio.run(_stopped()) == ["went on", "left: 0"]
