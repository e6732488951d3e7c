"""What every behaviour is: a name, a few figures, and how it turns a request into steps."""

import re
from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct

from keymux.sandbox.answer import Answer, Framing, Pace, Step, deliver
from keymux.sandbox.scene import Scene

_WORD_BEGINS = re.compile(r"(?<=[a-z])(?=[A-Z0-9])")


def _name(class_name: str) -> str:
    return _WORD_BEGINS.sub("-", class_name).lower()


class Behaviour(Struct, frozen=True, tag_field="behaviour", tag=_name):
    """How the sandbox meets a request.

    A subclass says something else in ``_answer`` or sends it in another way in ``_steps``.
    The class name in lower case with hyphens is its name, in keys and over the control API.
    """

    reads_body: ClassVar[bool] = True

    @classmethod
    def name(cls) -> str:
        """By which keys and scripts call it."""
        return _name(cls.__name__)

    def play(self, scene: Scene) -> Iterator[Step]:
        """What is done about a request."""
        return self._steps(scene)

    def _answer(self, scene: Scene) -> Answer:
        return scene.good()

    def _steps(self, scene: Scene) -> Iterator[Step]:
        return play(scene, self._answer(scene))


def play(
    scene: Scene, answer: Answer, *, framing: Framing | None = None, pace: Pace | None = None
) -> Iterator[Step]:
    """Send an answer whole.

    Args:
        scene: in which it is given.
        answer: to send.
        framing: None for the usual one.
        pace: None for the sandbox's own.
    """
    usual = scene.framing if answer.streamed else Framing.LENGTH
    return deliver(answer, pace or scene.pace, framing or usual, closing=scene.asked.closing)


class Ok(Behaviour, frozen=True):
    """Answers as a provider in good health does."""
