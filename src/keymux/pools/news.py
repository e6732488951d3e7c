"""What the audit tells about one provider, boiled down to what has to be read again."""

from enum import Enum

from keymux.core.health import Status
from keymux.core.records import AuditRow

DEAD = frozenset({Status.EXHAUSTED, Status.QUARANTINED})
"""A key in one of these states is replaced, if there is a backup key."""


class Said(Enum):
    """Who says something about a key or provider, and what follows for what we know ourselves."""

    FOUND = "another process: both are right"
    DECIDED = "an operator: forget what you know"
    LIFTED = "an operator: and forget it for the whole group"


class News:
    """What the audit tells about one provider.

    Attributes:
        keys: those that have changed.
        provider: whether the provider's own health has.
        has_dead: another process found a key dead.
        has_own_dead: the store has learned of one that this process found.
        has_spares: there are more backup keys than before.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Said] = {}
        self.provider: Said | None = None
        self.has_dead = self.has_own_dead = False
        self.has_spares = False

    def read(self, row: AuditRow, *, is_own: bool) -> None:
        """Note what a row says."""
        kind, _, action = row.action.partition(".")
        if row.action == "key.transition" and row.after in DEAD:
            self.has_own_dead |= is_own
            self.has_dead |= not is_own
        if is_own:
            return
        if kind == "provider":
            self.provider = self._said(action, self.provider)
        elif kind == "key":
            self.keys[row.subject] = self._said(action, self.keys.get(row.subject))
        elif row.action == "backup.promote":
            for key_id in (row.before, row.subject):
                self.keys[key_id] = self._said("add", self.keys.get(key_id))
        elif row.action in {"backup.add", "backup.restore"}:
            self.has_spares = True

    @staticmethod
    def _said(action: str, before: Said | None) -> Said:
        """What counts when several rows are about one thing: the operator's strongest word."""
        if action in {"reset", "restore"} or before is Said.LIFTED:
            return Said.LIFTED
        if action in {"transition", "add"} and before is not Said.DECIDED:
            return Said.FOUND
        return Said.DECIDED
