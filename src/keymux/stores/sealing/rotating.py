"""A new current key, and the end of the old ones; it may be cut off anywhere and run again.

The ring file is the only thing that says how far a rotation is. It gets the new key and the mark
``rotating`` in one step; the mark goes together with the old keys, in one step again, after the
store has said that nothing is sealed with them. In between both keys are in the ring, so servers
open whatever they meet.
"""

from enum import StrEnum

from keymux.stores.port import StoreUnavailable
from keymux.stores.sealing.port import Answers
from keymux.stores.sealing.ring import KeyRing
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.vault import Vault


class Step(StrEnum):
    """What an operator wants."""

    PREPARE = "prepare"
    TURN = "turn"
    FINISH = "finish"


class Rotation:
    """A rotation; the caller has the ring for itself, and seals everything anew in between.

    Args:
        vault: of the store.
        ring_file: that is changed.
        answers: of the store.
        actor: who does it.
    """

    def __init__(self, vault: Vault, ring_file: RingFile, answers: Answers, actor: str) -> None:
        self._vault = vault
        self._file = ring_file
        self._answers = answers
        self._actor = actor

    def begin(self, step: Step) -> str:
        """Change the ring as the step wants it; says what was done."""
        ring = self._ring()
        if ring.rotating and step is not Step.FINISH:
            return f"finishing the rotation to {ring.current} that was not finished"
        if step is Step.FINISH:
            return f"finishing with {ring.current}"
        ready = ring if ring.next else ring.with_next()
        if step is Step.PREPARE:
            self._file.replace(ready)
            return f"{ready.next} will be the next key; bring {self._file.where} to all hosts"
        self._file.replace(ready.turned())
        return f"{ready.next} is the current key now"

    async def end(self, *, keep_old: bool) -> list[str]:
        """Take keys that nothing uses out of the ring; says what became of each."""
        ring = self._ring()
        old = [kid for kid in ring.keys if kid not in {ring.current, ring.next}]
        if keep_old:
            self._file.replace(ring.without(set()))
            return [f"{kid} stays in the key ring" for kid in old]
        unused = {kid for kid in old if await self._answers.remove(kid, self._actor)}
        self._file.replace(ring.without(unused, rotating=len(unused) < len(old)))
        return [
            f"{kid} is no longer in the key ring: keep the old ring with old backups"
            if kid in unused
            else f"{kid} stays in the key ring: something was sealed with it just now; run it again"
            for kid in old
        ]

    def _ring(self) -> KeyRing:
        ring = self._vault.ring()
        if ring is None:
            raise StoreUnavailable("the key ring is gone")
        return ring
