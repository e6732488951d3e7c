"""The one owner of background work: everything it starts, it ends."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

_CANCEL_AGAIN_S = 2.0


class Background:
    """Tasks that belong to the application and not to a request.

    Args:
        report: told of a task that failed: its name and the traceback.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something once."""
        task = asyncio.create_task(self._guarded(work), name=_name(work))  # noqa: TID251 -- the owner
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # it never began if cancelled at once
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 -- the top of all background work
            self._report(_name(work), traceback.format_exc())

    def __len__(self) -> int:
        return len(self._tasks)

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended.

        A cancellation can get lost on the way: `asyncio.wait_for` of Python 3.11 drops one that
        arrives together with the result it waits for. So those that go on are cancelled again.
        """
        while tasks := tuple(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)


def _name(work: Coroutine[Any, Any, None]) -> str:
    return str(getattr(work, "__qualname__", "background"))
