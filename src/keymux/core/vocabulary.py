"""The nouns of keymux, one meaning each; `docs/vocabulary.md` says them in prose."""

from enum import StrEnum

from msgspec import Struct


class Word(StrEnum):
    """A closed set of words that are hashed as the plain text they are.

    `enum.Enum` hashes its members in Python code, which shows where they are keys on the request
    path.
    """

    __hash__ = str.__hash__


class WireFormat(Word):
    """The API a client or an upstream speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Operation(Word):
    """What a client asks an upstream to do."""

    GENERATE = "generate"
    COUNT_TOKENS = "count_tokens"


class Kind(Word):
    """How a request may be repeated: one column of the decision table each."""

    GENERATION = "generation"
    REPEATABLE = "repeatable"
    STATEFUL = "stateful"


class Metering(Word):
    """How an OpenAI stream whose client did not ask for usage is metered."""

    EXACT = "exact"
    PASSTHROUGH = "passthrough"


class Quality(Word):
    """How well the tokens of a ledger row are known.

    ``final``: the upstream said so at the end. ``partial``: counted up to the point where the
    answer was cut. ``estimated``: computed here. ``unknown``: nobody can say.
    """

    FINAL = "final"
    PARTIAL = "partial"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class Target(Struct, frozen=True):
    """One way to serve a model.

    Attributes:
        provider: name of the configured provider.
        model: the model's name at that provider.
    """

    provider: str
    model: str


class Price(Struct, frozen=True):
    """What a model costs, in US dollars per million tokens."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write_5m: float = 0.0
    cache_write_1h: float = 0.0


class Route(Struct, frozen=True):
    """A model's targets in the order they are tried.

    Attributes:
        model: the public id of the model, whatever alias the client used.
        targets: never empty.
        price: None when the operator gave no price: cost is then unknown, not zero.
        metering: how streams that carry no usage of their own are metered.
        first_event_s: seconds a stream of this model may think before its first event;
            None for the general setting.
    """

    model: str
    targets: tuple[Target, ...]
    price: Price | None = None
    metering: Metering = Metering.EXACT
    first_event_s: float | None = None


class Caller(Struct, frozen=True):
    """Whoever a client key belongs to.

    Attributes:
        id: id of the client key, never the key itself.
        label: the operator's name for it.
        models: public model ids this caller may use; empty means all of them.
    """

    id: str
    label: str = ""
    models: tuple[str, ...] = ()


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens by class.

    ``input`` excludes everything read from or written to the prompt cache; ``reasoning`` is the
    part of ``output`` that was thinking, not an addition to it.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """All tokens that count against an allowance."""
        return (
            self.input + self.output + self.cache_read + self.cache_write_5m + self.cache_write_1h
        )

    def plus(self, other: "Usage") -> "Usage":
        """The two added class by class."""
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cache_read=self.cache_read + other.cache_read,
            cache_write_5m=self.cache_write_5m + other.cache_write_5m,
            cache_write_1h=self.cache_write_1h + other.cache_write_1h,
            reasoning=self.reasoning + other.reasoning,
        )
