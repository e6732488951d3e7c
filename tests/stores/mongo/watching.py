"""What the driver sends, to be watched and meddled with."""

from collections.abc import Callable, Mapping
from typing import Any

from pymongo import monitoring

Command = Mapping[str, Any]


class Watcher(monitoring.CommandListener):
    """Hears of each command before it is sent; it acts only while it is told how."""

    def __init__(self) -> None:
        self.act: Callable[[Command], None] | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """A command is about to be sent; what is done now is not heard of again."""
        act, self.act = self.act, None
        if act is not None:
            act(event.command)
            self.act = act

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


WATCHER = Watcher()
monitoring.register(WATCHER)
