"""The configuration: one JSON file, read once, validated whole, never changed afterwards.

`load` gives a `Settings` or raises `BadConfig` with every problem and its JSON path. A string of
the form ``env.NAME`` is replaced by the environment variable of that name before anything is
checked.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from keymux.core.health import Backoff
from keymux.core.retrying import Patience
from keymux.core.routing import Model, Routes
from keymux.core.vocabulary import Metering, Price, Route, Target
from keymux.providers import CATALOGUE

_ENV = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]


class BadConfig(Exception):  # noqa: N818 -- it is the config that is bad
    """The config cannot be used.

    Attributes:
        problems: one line each, with the JSON path first.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


class Section(BaseModel):
    """A part of the config: unknown fields are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )


class ProviderSettings(Section):
    """One upstream service."""

    kind: str = Field(description="Its dialect: " + ", ".join(sorted(CATALOGUE)) + ".")
    base_url: str = Field(
        default="",
        description="https, or http on a loopback address; the dialect's own when left out.",
    )
    ca_file: str | None = Field(
        default=None, description="PEM file with further certificates to trust for this provider."
    )
    http2: bool = Field(default=True, description="Use HTTP/2 where the provider offers it.")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in CATALOGUE:
            known = ", ".join(sorted(CATALOGUE))
            raise ValueError(f"no dialect is called {value!r}; there are {known}")
        return value

    @field_validator("base_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        if value:
            _check_url(value)
        return value.rstrip("/")

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError(f"cannot read the file {value!r}")
        return value

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return self.base_url or CATALOGUE[self.kind].base_url


def _check_url(value: str) -> None:
    try:
        parts = urlsplit(value)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"{value!r} is not a URL: {error}") from None
    if parts.username is not None or parts.query or parts.fragment or not port_is_sound:
        raise ValueError("give scheme, host, port and path only: no user, query or fragment")
    if not parts.hostname or not value.isascii() or any(mark in value for mark in " \\\r\n\t"):
        raise ValueError(f"{value!r} is not a URL with a host")
    if parts.scheme == "https":
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname):
        raise ValueError("use https; plain http is allowed on a loopback address only")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class TargetSettings(Section):
    """One way to serve a model."""

    provider: str = Field(description="Name of a provider of this config.")
    model: str = Field(min_length=1, description="The model's name at that provider.")


class PriceSettings(Section):
    """US dollars per million tokens."""

    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars = 0.0
    cache_write_5m: Dollars = 0.0
    cache_write_1h: Dollars = 0.0


class ModelSettings(Section):
    """A model clients can ask for."""

    id: str = Field(min_length=1, max_length=200, description="Its public id.")
    name: str = Field(default="", description="Its name for people; the id when left out.")
    aliases: list[str] = Field(
        default=[], description="Other names for it; one may end in * and then stands for a prefix."
    )
    route: list[TargetSettings] = Field(min_length=1, description="Where it is served, in order.")
    price: PriceSettings | None = Field(
        default=None, description="Without a price, tokens are booked and the cost stays unknown."
    )
    metering: Literal["exact", "passthrough"] | None = Field(
        default=None, description="Overrides the general setting."
    )
    first_event_s: Seconds | None = Field(
        default=None, description="Overrides timeouts.first_event_s; reasoning models need more."
    )
    created: int = Field(default=0, ge=0, description="Release date, seconds since 1970.")

    @field_validator("aliases")
    @classmethod
    def _star_only_at_the_end(cls, value: list[str]) -> list[str]:
        for alias in value:
            if not alias or "*" in alias[:-1]:
                raise ValueError(
                    f"{alias!r}: an alias is a name, and * may only be its last letter"
                )
        return value


class Timeouts(Section):
    """Seconds to wait for things."""

    connect_s: Seconds = Field(default=5, description="Name lookup, TCP and TLS to an upstream.")
    first_event_s: Seconds = Field(default=120, description="A stream's first event.")
    idle_s: Seconds = Field(default=120, description="Silence within an upstream's answer.")
    overall_s: Seconds = Field(
        default=600, description="The whole exchange, all attempts. Clients may ask for less."
    )
    client_write_s: Seconds = Field(default=60, description="A client that reads nothing.")
    client_body_s: Seconds = Field(default=30, description="Silence within a request body.")
    keep_alive_s: Seconds = Field(
        default=15, description="Silence towards a streaming client before it gets a comment."
    )
    early_commit_s: Seconds = Field(
        default=25, description="How long the status line of a stream is held back at most."
    )
    drain_s: Seconds = Field(default=600, description="How long streams may run on at shutdown.")


class Retry(Section):
    """How much one exchange may try."""

    attempts: Count = Field(default=8, le=32, description="Attempts in all.")
    processed_attempts: Count = Field(
        default=3, le=8, description="Attempts that the upstream may have worked on."
    )
    ambiguous_max_cost_usd: Dollars = Field(
        default=0.5,
        description="An attempt that may be billed already is repeated only below this estimate.",
    )
    budget_percent: float = Field(
        default=20, ge=0, le=100, description="Retries as a share of a provider's requests."
    )
    budget_floor: int = Field(
        default=30, ge=0, description="Retries a provider always has in ten seconds."
    )
    queue_s: float = Field(default=2, ge=0, le=30, description="Longest wait for a key.")
    queue_length: Count = Field(default=100, description="Exchanges waiting for a key at most.")


class Cooldown(Section):
    """How long a key or provider is left alone when the upstream does not say; one step a wave."""

    rate_limited_s: list[Seconds] = Field(default=[15, 30, 60, 120, 300], min_length=1)
    error_s: list[Seconds] = Field(default=[15, 30, 60, 120, 300], min_length=1)
    provider_s: list[Seconds] = Field(default=[5, 10, 20, 40, 60], min_length=1)
    exhausted_s: Seconds = Field(default=3600, description="Until the next probe of a spent key.")
    model_off_s: Seconds = Field(default=21_600, description="A model the key may not use.")
    failure_threshold: Count = Field(default=3, description="Failures in a row before a cooldown.")


class Limits(Section):
    """What one process takes."""

    body_bytes: Count = Field(default=32 * 2**20, description="Largest request body.")
    answer_bytes: Count = Field(default=64 * 2**20, description="Largest answer that is no stream.")
    event_bytes: Count = Field(default=2**20, description="Largest event of a stream.")
    header_bytes: Count = Field(default=32 * 2**10, description="All headers of a request.")
    exchanges: Count = Field(default=4000, description="Exchanges at once.")
    count_tokens: Count = Field(default=64, description="Token counts at once.")
    chunked_requests: bool = Field(
        default=False,
        description="Accept bodies with Transfer-Encoding: chunked. Off, because the server cannot "
        "tell them from requests that carry both length headers.",
    )


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Settings(Section):
    """Everything an operator decides."""

    schema_: str | None = Field(default=None, alias="$schema", description="For editors; ignored.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8005, ge=1, le=65_535)
    store: str = Field(
        default="sqlite:///keymux.db",
        description="sqlite:///relative.db or sqlite:////absolute.db.",
    )
    journal: str | None = Field(
        default=None,
        description="Folder for what is not in the store yet; beside the database when left out.",
    )
    providers: dict[str, ProviderSettings] = Field(min_length=1)
    models: list[ModelSettings] = Field(min_length=1)
    metering: Literal["exact", "passthrough"] = Field(
        default="exact",
        description="exact asks OpenAI streams for usage and hides the extra chunk from clients "
        "that did not ask; passthrough leaves every byte alone and estimates.",
    )
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    cooldown: Cooldown = Cooldown()
    limits: Limits = Limits()
    log: Log = Log()

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if not value.startswith("sqlite:///") or value == "sqlite:///":
            raise ValueError("use sqlite:/// and a file name, such as sqlite:///keymux.db")
        return value

    @property
    def database(self) -> Path:
        """The file of the embedded store."""
        return Path(self.store.removeprefix("sqlite:///"))

    @property
    def journal_folder(self) -> Path:
        """Where the journal lives."""
        if self.journal is not None:
            return Path(self.journal)
        return self.database.with_name(self.database.name.removesuffix(".db") + ".journal")

    def routes(self) -> Routes:
        """All models by every name they answer to."""
        return Routes((self._model(model), model.aliases) for model in self.models)

    def _model(self, model: ModelSettings) -> Model:
        price = Price(**model.price.model_dump()) if model.price else None
        return Model(
            id=model.id,
            name=model.name or model.id,
            created=model.created,
            route=Route(
                model=model.id,
                targets=tuple(Target(step.provider, step.model) for step in model.route),
                price=price,
                metering=Metering(model.metering or self.metering),
                first_event_s=model.first_event_s,
            ),
        )

    def patience(self) -> Patience:
        """How much an exchange may try, as the decision table wants it."""
        return Patience(
            attempts=self.retry.attempts,
            processed=self.retry.processed_attempts,
            ambiguous_max_cost_micros=round(self.retry.ambiguous_max_cost_usd * 1_000_000),
        )

    def backoffs(self) -> tuple[Backoff, Backoff, Backoff]:
        """For rate limits, for errors of a key, for a provider."""
        cooldown = self.cooldown
        return (
            Backoff(tuple(cooldown.rate_limited_s)),
            Backoff(tuple(cooldown.error_s)),
            Backoff(tuple(cooldown.provider_s)),
        )


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a config file.

    Raises:
        BadConfig: with everything that is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(str(path), [f"$: cannot be read: {error}"]) from None
    return parse(text, source=str(path), environment=environment)


def parse(text: str, *, source: str, environment: Mapping[str, str]) -> Settings:
    """Check the text of a config; `source` names it in messages."""
    try:
        raw = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadConfig(source, [f"$: is not valid JSON: {error}"]) from None
    problems: list[str] = []
    resolved = _resolved(raw, "$", environment, problems)
    try:
        settings = Settings.model_validate_json(json.dumps(resolved))
    except ValidationError as error:
        problems += [_line(dict(problem)) for problem in error.errors(include_url=False)]
        raise BadConfig(source, problems) from None
    problems += _cross_checks(settings)
    if problems:
        raise BadConfig(source, problems)
    return settings


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the field {twice[0]!r} stands there twice")
    return found


def _resolved(value: Any, path: str, environment: Mapping[str, str], problems: list[str]) -> Any:  # noqa: ANN401 -- JSON
    if isinstance(value, dict):
        return {
            name: _resolved(item, f"{path}.{name}", environment, problems)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [
            _resolved(item, f"{path}[{index}]", environment, problems)
            for index, item in enumerate(value)
        ]
    if isinstance(value, str) and (variable := _ENV.match(value)):
        found = environment.get(variable[1])
        if not found:
            problems.append(f"{path}: the environment variable {variable[1]} is not set")
        return found or value
    return value


def _line(problem: dict[str, Any]) -> str:
    path = "$"
    for part in problem["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if problem["type"] == "extra_forbidden":
        return f"{path}: no such field"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}"


def _cross_checks(settings: Settings) -> Iterator[str]:
    for name, provider in settings.providers.items():
        if not _NAME.match(name):
            yield f"$.providers.{name}: use small letters, digits and _, a letter first, at most 31"
        if not provider.url:
            kind = provider.kind
            yield f"$.providers.{name}.base_url: the dialect {kind!r} has no address of its own"
    names: dict[str, str] = {}
    for index, model in enumerate(settings.models):
        at = f"$.models[{index}]"
        for name in (model.id, *model.aliases):
            if name in names:
                yield f"{at}: the name {name!r} already belongs to {names[name]}"
            names[name] = at
        yield from _route_checks(settings, model, at)
    if settings.timeouts.early_commit_s > settings.timeouts.overall_s:
        yield "$.timeouts.early_commit_s: longer than overall_s"


def _route_checks(settings: Settings, model: ModelSettings, at: str) -> Iterator[str]:
    seen: set[str] = set()
    for step, target in enumerate(model.route):
        where = f"{at}.route[{step}].provider"
        if target.provider not in settings.providers:
            yield f"{where}: no provider of this config is called {target.provider!r}"
        if target.provider in seen:
            yield f"{where}: {target.provider!r} is in this route already"
        seen.add(target.provider)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors."""
    schema = Settings.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "keymux config"
    return schema
