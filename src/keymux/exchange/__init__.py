"""One request, top to bottom.

``serve`` is the whole story on one screen; read it first. Then, in the order of the story:
``authenticate``, ``admit``, ``dispatch`` (lease, attempt, retry), ``peek`` (when an answer has
begun), ``deliver``, ``settle``, and ``refuse`` for everything that goes wrong. ``watch`` ends what
takes too long. ``ports`` names what is needed from outside.
"""
