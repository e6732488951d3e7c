"""The recorded shapes of streams, and ways to send them."""

from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from keymux.wire.formats import Format, Meter
from keymux.wire.sse import Framer

FOLDER = Path(__file__).parent.parent / "samples"
NAMES = sorted(path.stem.removesuffix("-2026-11") for path in FOLDER.glob("*.sse"))

cuts = st.lists(st.integers(1, 3000), max_size=10)


def sample(name: str, newline: bytes = b"\n") -> bytes:
    """A stream, with the newlines of some other server."""
    return (FOLDER / f"{name}-2026-11.sse").read_bytes().replace(b"\n", newline)


def blocks(stream: bytes, at: list[int]) -> list[bytes]:
    """A stream in blocks of whole events, as they come out of a network that cuts it."""
    framer = Framer(2**20)
    places = sorted({0, *at, len(stream)})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    return [block for chunk in chunks if (block := framer.feed(chunk))]


def metered(wire: Format, parts: list[bytes]) -> Meter:
    """A meter that has seen some blocks."""
    meter = wire.meter()
    for part in parts:
        meter.note(part)
    return meter
