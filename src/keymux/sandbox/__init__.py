"""A scripted upstream that speaks real bytes: for tests, demonstrations and `make run`.

A request is read by ``connection`` and understood by ``asked`` and ``prompt``; ``scripts`` names
the behaviour that meets it; the behaviour turns a ``scene`` into an ``answer`` and that into steps,
which ``connection`` carries out. What the pretended model says is made in ``content`` and written
down by ``openai_chat`` and ``anthropic_messages``. ``behaviours`` lists everything that can go
wrong. ``server`` is the sandbox itself, ``apart`` runs it in another thread or process, ``control``
is how other processes talk to it.
"""

from keymux.sandbox.server import Sandbox

__all__ = ["Sandbox"]
