"""Find out whether upstream keys are accepted, by asking for something that costs nothing."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

from msgspec import Struct
from pyreqwest.client import Client
from pyreqwest.request import StreamRequest

from keymux.cli import standing
from keymux.cli.leaving import Ways
from keymux.cli.moments import now_ms
from keymux.cli.progress import progress
from keymux.cli.saying import note
from keymux.cli.tables import Column, listing
from keymux.core.egress import DIRECT, ProxyRecord
from keymux.core.faults import (
    EgressDown,
    FirstEventLate,
    Forbidden,
    RequestRefused,
    Unintelligible,
    UpstreamFault,
)
from keymux.core.health import Status
from keymux.core.records import KeyRecord
from keymux.core.secrets import shown
from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE
from keymux.settings import Settings
from keymux.telemetry.redaction import redact_body
from keymux.upstream.asking import Ask, Service, Upstreams
from keymux.upstream.request import USER_AGENT, UpstreamRequest
from keymux.upstream.transport import Transport

_ACCEPTED = "accepted"
_AT_ONCE = 8
_MOST_BYTES = 4 * 2**20
_ANTHROPIC_VERSION = ("anthropic-version", "2023-06-01")
_SAYS_NOTHING = (RequestRefused, Forbidden)
_COLUMNS = (
    Column("id", "id", whole=True),
    Column("label"),
    Column("shown", "key", whole=True),
    Column("status", "status", whole=True),
    Column("verdict", "verdict"),
    Column("finding"),
)


class Verdict(Struct, frozen=True):
    """What a provider says of one key.

    Attributes:
        verdict: ``accepted``, ``unclear``, or the code of a fault.
        finding: in words.
    """

    verdict: str
    finding: str


class Trial:
    """Asks one provider.

    Args:
        settings: with the provider.
        provider: its name.
        timeout: seconds for one answer.
    """

    def __init__(self, settings: Settings, provider: str, timeout: float) -> None:
        chosen = settings.providers[provider]
        self._name = provider
        self._dialect = CATALOGUE[chosen.kind]
        self._service = Service(
            self._dialect, chosen.url, ca_file=chosen.ca_file, http2=chosen.http2
        )
        self._is_plain = chosen.is_plain
        self._timeout = timeout
        self._transport = Transport(settings.timeouts.connect_s, settings.egress.connect_s)
        self._upstreams = Upstreams(self._transport, redact_body, time.time)

    async def run(
        self, records: Sequence[KeyRecord], ways: Ways, done: Callable[[int], None]
    ) -> list[Verdict]:
        """What it says of each key, in order, a few at a time; each goes out by its own way."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(record: KeyRecord) -> Verdict:
            async with slots:
                verdict = await self.verdict(record, ways)
            done(1)
            return verdict

        try:
            return await asyncio.gather(*(one(record) for record in records))
        finally:
            await self._transport.close()

    async def verdict(self, record: KeyRecord, ways: Ways) -> Verdict:
        """What it says of a key."""
        secret, way = record.secret, ways.of_key(record.id)
        if not way.is_open:
            return Verdict(EgressDown.code, way.reason)
        proxy = ways.proxy_named(way.names[0])
        if proxy is not None and self._is_plain:
            return Verdict(EgressDown.code, "is bound, and the provider's base_url is plain http")
        try:
            async with asyncio.timeout(self._timeout):
                return self._accepted(await self._answer(secret, proxy))
        except TimeoutError:
            late = FirstEventLate(seconds=self._timeout)
            return Verdict(late.code, f"no answer within {self._timeout:g} s")
        except UpstreamFault as fault:
            return self._refused(fault, secret)

    async def _answer(self, secret: str, proxy: ProxyRecord | None) -> bytes:
        spoken = (one for one in WireFormat if self._dialect.speaks(one))
        wire_format = next(spoken, WireFormat.OPENAI)
        request = UpstreamRequest(
            provider=self._name,
            secret=secret,
            way=DIRECT if proxy is None else proxy.id,
            format=wire_format,
            operation=Operation.GENERATE,
            stream=False,
            headers=(),
            query="",
            body=b"",
            proxy=None if proxy is None else proxy.address,
        )
        slots = self._transport.slots(self._service.way(request))
        ask = _Visit(self._upstreams, self._service, slots, request)
        try:
            return await (await ask.answer()).start_of_body(_MOST_BYTES)
        finally:
            await ask.close()

    def _accepted(self, body: bytes) -> Verdict:
        try:
            found: object = json.loads(body)
        except (ValueError, RecursionError):
            return Verdict(Unintelligible.code, "200, but no JSON: is base_url right?")
        models = found.get("data") if isinstance(found, dict) else None
        counted = f"{len(models)} models" if isinstance(models, list) else "200"
        return Verdict(_ACCEPTED, counted)

    def _refused(self, fault: UpstreamFault, secret: str) -> Verdict:
        said = re.sub(re.escape(secret), "***", fault.reason, flags=re.IGNORECASE)
        if isinstance(fault, _SAYS_NOTHING):
            status = fault.answer.status if fault.answer else 0
            missing = status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
            why = f"nothing at {self._dialect.test_path}" if missing else said
            return Verdict("unclear", f"{why}: this says nothing of the key")
        meaning = (type(fault).__doc__ or "").partition("\n")[0]
        told = "" if fault.told is None else f", wait {fault.told:g} s"
        return Verdict(fault.code, f"{said}{told}: {meaning}".removeprefix(": "))


class _Visit(Ask):
    """A free GET with a key."""

    def build(self, client: Client) -> StreamRequest:
        """The request, signed, as the HTTP library takes it."""
        dialect, request = self._service.provider, self._request
        version = (_ANTHROPIC_VERSION,) if request.format is WireFormat.ANTHROPIC else ()
        headers = (
            *dialect.sign(request.secret, request.format),
            *version,
            ("user-agent", USER_AGENT),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
        )
        return client.get(self._service.url + dialect.test_path).headers(headers).build_streamed()


def is_left_alone(record: KeyRecord, now: int) -> bool:
    """Whether a key is to get no traffic at present, not even a free request."""
    found = standing.of_key(record)
    waits = found.until is not None and found.until > now and not found.model
    held = {Status.QUARANTINED, Status.DISABLED}
    return waits or bool(record.replaced_by) or found.status in held


def try_keys(  # noqa: PLR0913 -- each is an option of the command
    settings: Settings,
    provider: str,
    records: Sequence[KeyRecord],
    ways: Ways,
    *,
    named: bool,
    timeout: float,
    as_json: bool,
) -> bool:
    """Test keys and say what was found; True when all of them are accepted.

    Args:
        settings: with the provider.
        provider: its name.
        records: the keys.
        ways: by which they leave.
        named: whether the operator named them, which overrides every cooldown.
        timeout: seconds for one answer.
        as_json: for programs.
    """
    now = now_ms()
    chosen = [record for record in records if named or not is_left_alone(record, now)]
    if len(chosen) < len(records):
        left_alone = len(records) - len(chosen)
        note(f"left alone: {left_alone} that may get no traffic now; name a key to test it anyway")
    with progress("testing", len(chosen)) as done:
        verdicts = asyncio.run(Trial(settings, provider, timeout).run(chosen, ways, done))
    rows = [
        {
            "id": record.id,
            "label": record.label,
            "shown": shown(record.secret),
            "status": standing.of_key(record).status,
            "verdict": verdict.verdict,
            "finding": verdict.finding,
        }
        for record, verdict in zip(chosen, verdicts, strict=True)
    ]
    listing(rows, _COLUMNS, as_json=as_json, nothing="no key was tested")
    _hint(provider, chosen, verdicts)
    return all(verdict.verdict == _ACCEPTED for verdict in verdicts)


def _hint(provider: str, records: Sequence[KeyRecord], verdicts: Sequence[Verdict]) -> None:
    for record, verdict in zip(records, verdicts, strict=True):
        if verdict.verdict == _ACCEPTED and record.state.status is Status.QUARANTINED:
            note(f"{record.id} is quarantined but accepted: `keymux keys restore {provider} ...`")
