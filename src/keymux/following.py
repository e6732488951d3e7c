"""Reads what operators and other processes change in the store, as the audit tells it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from keymux.core.records import AuditRow
from keymux.stores.port import Audit, StoreUnavailable, StoreUnusable

FOLLOW_EVERY_S = 0.25
_PAGE = 1000


class Follower:
    """Reads on from where it stopped.

    Args:
        audit: of the store.
        take_over: acts on rows; those for which it raises are read again.
        away: told why the changes cannot be read, once, and "" when they can be again.
    """

    def __init__(
        self,
        audit: Audit,
        take_over: Callable[[Sequence[AuditRow]], Awaitable[None]],
        away: Callable[[str], None],
    ) -> None:
        self._audit = audit
        self._take_over = take_over
        self._away = away
        self._is_away = False
        self._seen = 0

    async def skip(self) -> None:
        """What is in the audit by now is known: everything is loaded after this.

        Raises:
            StoreUnavailable: it cannot be read now.
        """
        self._seen = await self._audit.last()

    async def run(self) -> None:
        """Read on until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            try:
                await self._read_on()
            except (StoreUnavailable, StoreUnusable) as error:
                if not self._is_away:
                    self._away(str(error))
                self._is_away = True
            else:
                if self._is_away:
                    self._away("")
                self._is_away = False

    async def _read_on(self) -> None:
        while rows := await self._audit.since(self._seen, _PAGE):
            await self._take_over(rows)
            self._seen = rows[-1].seq
