"""What an operator can decide, section by section, with every default and its meaning."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.config import JsonDict

from keymux.core.health import Backoff
from keymux.core.retrying import Patience
from keymux.core.routing import Model, Routes
from keymux.core.vocabulary import Metering, Price, Route, Target
from keymux.providers import CATALOGUE
from keymux.settings.address import check_address, check_target
from keymux.settings.place import SQLITE, check_file, check_server, database_name, is_server, shown

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=2**40)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]

MOST_WORKERS = 64

_KINDS: JsonDict = {"enum": [*sorted(CATALOGUE)]}
_ADDRESS = r"^$|^https://|^http://(127\.|localhost[:/]|localhost$|\[::1\])|^env\."


class Section(BaseModel):
    """A part of the config: unknown fields are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )


class ProviderSettings(Section):
    """One upstream service."""

    kind: str = Field(
        description="Its dialect: " + ", ".join(sorted(CATALOGUE)) + ".",
        json_schema_extra=_KINDS,
    )
    base_url: str = Field(
        default="",
        description="https, or http on a loopback address; the dialect's own when left out.",
        json_schema_extra={"pattern": _ADDRESS},
    )
    ca_file: str | None = Field(
        default=None, description="PEM file with further certificates to trust for this provider."
    )
    http2: bool = Field(default=True, description="Use HTTP/2 where the provider offers it.")
    egress: Literal["optional", "required"] = Field(
        default="optional",
        description="optional: keys without a binding go directly. required: they are not used.",
    )

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
            check_address(value)
        return value.rstrip("/")

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not _is_readable(value):
            raise ValueError(f"cannot read the file {value!r}")
        return value

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return self.base_url or CATALOGUE[self.kind].base_url

    @property
    def is_plain(self) -> bool:
        """Whether it is spoken to without TLS: then keys do not travel through a proxy."""
        return not self.url.startswith("https:")


def _is_readable(name: str) -> bool:
    try:
        return Path(name).is_file() and os.access(name, os.R_OK)
    except OSError:  # such as a name that is too long
        return False


class TargetSettings(Section):
    """One way to serve a model."""

    provider: str = Field(description="Name of a provider of this config.")
    model: Name = Field(description="The model's name at that provider.")


class PriceSettings(Section):
    """US dollars per million tokens."""

    input: Dollars = Field(default=0, description="Input outside the prompt cache.")
    output: Dollars = Field(default=0, description="Output, thinking included.")
    cache_read: Dollars = Field(default=0, description="Input read from the cache.")
    cache_write_5m: Dollars = Field(default=0, description="Input kept for five minutes.")
    cache_write_1h: Dollars = Field(default=0, description="Input kept for an hour.")


class ModelSettings(Section):
    """A model clients can ask for."""

    id: Name = Field(description="Its public id.")
    name: str = Field(default="", description="Its name for people; the id when left out.")
    aliases: list[Name] = Field(
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
            if "*" in alias[:-1]:
                raise ValueError(f"{alias!r}: * may only be the last letter of an alias")
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
    client_body_s: Seconds = Field(
        default=30, description="Silence within a request body; four times as long for all of it."
    )
    keep_alive_s: Seconds = Field(
        default=15, description="Silence towards a streaming client before it gets a comment."
    )
    early_commit_s: Seconds = Field(
        default=25, description="How long the status line of a stream is held back at most."
    )
    drain_s: Seconds = Field(default=600, description="How long streams may run on at shutdown.")


class Retry(Section):
    """How much one exchange may try."""

    attempts: int = Field(default=8, ge=1, le=32, description="Attempts in all.")
    processed_attempts: int = Field(
        default=3, ge=1, le=8, description="Attempts that the upstream may have worked on."
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


class EgressSettings(Section):
    """Egress proxies: how they are checked, and how long their connections are kept."""

    check_every_s: Seconds = Field(
        default=60, description="Seconds between the checks of a proxy that is well."
    )
    check_target: str = Field(
        default="",
        description="host:port to reach through a proxy, with TLS, when it is checked; when left "
        "out, each provider that keys are bound for.",
    )
    connect_s: Seconds = Field(
        default=10, description="Name lookup, TCP, proxy and TLS, all the way to an upstream."
    )
    retry_s: list[Seconds] = Field(
        default=[5, 10, 20, 40, 60],
        min_length=1,
        description="How long a proxy that failed is left alone until it is checked again.",
    )
    idle_s: Seconds = Field(
        default=300, description="An HTTP client that was not used for so long is closed."
    )

    @field_validator("check_target")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value:
            check_target(value)
        return value


class Cooldown(Section):
    """How long a key or provider is left alone when the upstream does not say; one step a wave."""

    rate_limited_s: list[Seconds] = Field(
        default=[15, 30, 60, 120, 300], min_length=1, description="A quota group over its rate."
    )
    error_s: list[Seconds] = Field(
        default=[15, 30, 60, 120, 300], min_length=1, description="A key that keeps failing."
    )
    provider_s: list[Seconds] = Field(
        default=[5, 10, 20, 40, 60], min_length=1, description="A provider that is down."
    )
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

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important lines that are written."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="For programs or for people."
    )


class Secrets(Section):
    """How the secrets in the store are kept."""

    key_ring: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="File of the keys that seal them, or the key ring itself from env.NAME; when "
        "left out it is beside the file of the database, or <database>.mongodb.keyring.json where "
        "the gateway runs.",
        repr=False,
    )
    plain: bool = Field(
        default=False,
        description="Store new secrets as they are: whoever reads a backup has them. Each start "
        "warns of it.",
    )


class Settings(Section):
    """Everything an operator decides."""

    schema_: str | None = Field(default=None, alias="$schema", description="For editors; ignored.")
    host: str = Field(
        default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]+$", description="Address to listen on."
    )
    port: int = Field(default=8005, ge=1, le=65_535, description="Port to listen on.")
    workers: int = Field(
        default=1, ge=1, le=MOST_WORKERS, description="Processes that share the port."
    )
    store: str = Field(
        default="sqlite:///keymux.db",
        description="sqlite:///relative.db, sqlite:////absolute.db, or mongodb://host/database "
        "with user, password and options as MongoDB has them.",
        repr=False,
    )
    journal: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="Folder for what is not in the store yet; when left out it is beside the file "
        "of the database, or <database>.mongodb.journal where the gateway runs.",
    )
    providers: dict[str, ProviderSettings] = Field(
        min_length=1,
        description="The upstream services by name.",
        json_schema_extra={"propertyNames": {"pattern": "^[a-z][a-z0-9_]{0,30}$"}},
    )
    models: list[ModelSettings] = Field(min_length=1, description="What clients can ask for.")
    metering: Literal["exact", "passthrough"] = Field(
        default="exact",
        description="exact asks OpenAI streams for usage and hides the extra chunk from clients "
        "that did not ask; passthrough leaves every byte alone and estimates.",
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="How long to wait for things.")
    retry: Retry = Field(default=Retry(), description="How much one exchange may try.")
    cooldown: Cooldown = Field(default=Cooldown(), description="How long to leave things alone.")
    egress: EgressSettings = Field(
        default=EgressSettings(), description="Egress proxies and connections."
    )
    limits: Limits = Field(default=Limits(), description="What one process takes.")
    log: Log = Field(default=Log(), description="What is written.")
    secrets: Secrets = Field(default=Secrets(), description="How secrets are kept.")

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        check = check_server if is_server(value) else check_file
        check(value)
        return value

    @property
    def database(self) -> Path | None:
        """The file of the embedded store; None when the store is a server."""
        return None if is_server(self.store) else Path(self.store.removeprefix(SQLITE))

    @property
    def store_shown(self) -> str:
        """The store without its credentials."""
        return shown(self.store)

    @property
    def journal_folder(self) -> Path:
        """Where the journal lives."""
        if self.journal is not None:
            return Path(self.journal)
        return self._beside_the_store("journal")

    @property
    def key_ring(self) -> Path | str:
        """Where the key ring is, or the key ring itself."""
        found = self.secrets.key_ring
        if found is None:
            return self._beside_the_store("keyring.json")
        return found if found.lstrip().startswith("{") else Path(found)

    @property
    def key_ring_shown(self) -> str:
        """Where the key ring is, for people."""
        where = self.key_ring
        return "the key ring of the environment" if isinstance(where, str) else str(where)

    def _beside_the_store(self, ending: str) -> Path:
        """A file or folder that belongs to the store, whichever config names it."""
        if self.database is None:
            return Path(f"{database_name(self.store)}.mongodb.{ending}")
        return self.database.with_name(f"{self.database.name.removesuffix('.db')}.{ending}")

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
