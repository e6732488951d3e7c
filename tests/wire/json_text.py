"""JSON as text, with every oddity that is still valid: for what must not touch a byte of it."""

import json

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

SPACES = ["", "", "", " ", "\n", "\t", "\r\n  "]
NUMBERS = ["0", "-0", "1e5", "1E-7", "-12.50", "123456789012345678901234567890", "0.1e+400"]
LETTERS = ["a", "model", '"', "\\", "/", "{", "}", "[", "]", ",", ":", " ", "é", "🌊", "\u0001"]

spaces = st.sampled_from(SPACES)


@composite
def strings(draw: DrawFn) -> str:
    """A string literal, each letter spelled one of the ways it can be."""
    letters = draw(st.lists(st.sampled_from(LETTERS), max_size=4))
    spelled = [draw(spellings(letter)) for letter in letters]
    return '"' + "".join(spelled) + '"'


def spellings(letters: str) -> SearchStrategy[str]:
    """The ways to spell some letters inside a literal."""
    ways = [json.dumps(letters)[1:-1], json.dumps(letters, ensure_ascii=False)[1:-1]]
    if letters.isascii():
        ways.append("".join(f"\\u{ord(letter):04X}" for letter in letters))
    if letters == "/":
        ways.append("\\/")
    return st.sampled_from(ways)


scalars = st.one_of(strings(), st.sampled_from(NUMBERS), st.sampled_from(["true", "false", "null"]))


@composite
def arrays(draw: DrawFn, inner: SearchStrategy[str]) -> str:
    """An array."""
    items = [draw(spaces) + item + draw(spaces) for item in draw(st.lists(inner, max_size=3))]
    return "[" + (",".join(items) or draw(spaces)) + "]"


names = (
    st.sampled_from(["model", "stream", "a", "stream_options"])
    .flatmap(lambda name: st.one_of(spellings(name), st.just(name), st.just(name)))
    .map(lambda spelled: f'"{spelled}"')
    | strings()
)


@composite
def objects(draw: DrawFn, inner: SearchStrategy[str]) -> str:
    """An object; names may come twice."""
    fields = draw(st.lists(st.tuples(names, inner), max_size=3))
    text = ",".join(
        f"{draw(spaces)}{name}{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}"
        for name, value in fields
    )
    return "{" + (text or draw(spaces)) + "}"


values = st.recursive(scalars, lambda inner: arrays(inner) | objects(inner), max_leaves=8)


class Body:
    """An object at the top, in pieces: it knows where the value of every field stands."""

    def __init__(self, fields: list[tuple[str, str, str, str]], gap: str, around: str) -> None:
        self.fields = fields
        self._gap = gap
        self._around = around

    def __repr__(self) -> str:
        return f"<Body {self.text()!r}>"

    def text(self, name: str = "", value: str = "") -> bytes:
        """The text, or what it becomes when every field of a name gets another value."""
        written = [
            f"{before}{key}{between}{value if name and json.loads(key) == name else old}"
            for before, key, between, old in self.fields
        ]
        inside = (self._gap + ",").join(written) + self._gap
        return f"{self._around}{{{inside}}}{self._around}".encode()

    def has(self, name: str) -> bool:
        """Whether there is a field of that name."""
        return any(json.loads(key) == name for _, key, _, _ in self.fields)


@composite
def bodies(draw: DrawFn, value: SearchStrategy[str] = values) -> Body:
    """Requests of any shape."""
    fields = [
        (draw(spaces), draw(names), draw(spaces) + ":" + draw(spaces), draw(value))
        for _ in range(draw(st.integers(0, 6)))
    ]
    return Body(fields, draw(spaces), draw(spaces))
