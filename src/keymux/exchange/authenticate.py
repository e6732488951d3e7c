"""Who is asking: a client key in, a caller out."""

from collections.abc import Iterable, Sequence

from keymux.core.faults import NotRecognised
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of
from keymux.core.vocabulary import Caller
from keymux.exchange.ports import Callers


def authenticate(client_keys: Sequence[str], callers: Callers) -> Caller:
    """The caller that one of the shown client keys belongs to.

    Raises:
        NotRecognised: none does, or it was revoked.
    """
    for key in client_keys:
        caller = callers.find(key)
        if caller is not None:
            return caller
    what = "is not valid" if client_keys else "is missing"
    raise NotRecognised(problem=f"The client key {what}.")


class Doorkeeper:
    """All client keys by their hash, in memory."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}

    def find(self, client_key: str) -> Caller | None:
        """The caller a client key belongs to; the key itself is never compared, only its hash."""
        return self._callers.get(hash_of(client_key))

    def replace_all(self, records: Iterable[ClientKeyRecord]) -> None:
        """From now on these are the client keys."""
        self._callers = {
            record.key_hash: Caller(id=record.id, label=record.label, models=record.models)
            for record in records
            if record.revoked_at is None
        }
