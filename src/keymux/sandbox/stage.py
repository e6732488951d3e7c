"""From a request to its steps: who is let in, which behaviour it meets, what that does."""

import secrets
import time
from collections.abc import Callable, Iterator

import msgspec

from keymux.sandbox.answer import Answer, Pace, Step
from keymux.sandbox.asked import Asked, Endpoint
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.behaviours import BadScript
from keymux.sandbox.refusing import Rejected
from keymux.sandbox.scene import Scene
from keymux.sandbox.scripts import Scripts
from keymux.sandbox.wrong import Wrong


class NotServed(Behaviour, frozen=True):
    """Answers that the path or the method is none of the API's."""

    status: int = 404

    def _answer(self, scene: Scene) -> Answer:
        words = "Not Found" if self.status == 404 else "Method Not Allowed"  # noqa: PLR2004 -- a status
        return scene.json(self.status, msgspec.json.encode({"detail": words}))


class Misnamed(Behaviour, frozen=True):
    """Answers that the key's name asks for a behaviour that there is not."""

    reason: str

    def _answer(self, scene: Scene) -> Answer:
        return scene.wrong(Wrong(400, self.reason))


class Stage:
    """Plays the part that the scripts give to each request.

    Args:
        scripts: which behaviour meets which request.
        pace: usual timing of streams.
        wall: seconds since 1970.
    """

    def __init__(self, scripts: Scripts, pace: Pace, wall: Callable[[], float] = time.time) -> None:
        self._scripts = scripts
        self._pace = pace
        self._wall = wall

    def behaviour_for(self, asked: Asked) -> Behaviour:
        """Who meets a request; known as soon as its head is."""
        endpoint = asked.place.endpoint
        if endpoint is Endpoint.OTHER:
            return NotServed()
        if asked.method != ("GET" if endpoint is Endpoint.MODELS else "POST"):
            return NotServed(405)
        if not self._scripts.knows(asked.key):
            return Rejected()
        try:
            return self._scripts.next(asked)
        except BadScript as reason:
            return Misnamed(str(reason))

    def play(self, asked: Asked, behaviour: Behaviour) -> Iterator[Step]:
        """What a behaviour does with a request, body included."""
        return behaviour.play(Scene(asked, self._pace, self._wall(), secrets.token_hex(12)))
