"""What became of one exchange, in lines."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

from keymux.cli.moments import moment
from keymux.cli.money import dollars
from keymux.cli.tables import plain
from keymux.core.egress import DIRECT
from keymux.core.faults import leaves
from keymux.core.records import AttemptRecord, ExchangeRow, Outcome
from keymux.core.retrying import Work
from keymux.core.vocabulary import Quality

_ENDS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.OK: "served",
        Outcome.REFUSED: "refused before anything was sent upstream",
        Outcome.FAILED: "no attempt came to an answer",
        Outcome.CUT: "the answer broke off after part of it had gone to the client",
        Outcome.CLIENT_GONE: "the client left before the end",
        Outcome.INTERRUPTED: "the gateway process ended before the exchange did",
    }
)
_WORK: Mapping[str, str] = MappingProxyType(
    {
        Work.NONE: "nothing was processed",
        Work.UNKNOWN: "may have been processed",
        Work.DONE: "was processed",
    }
)
_QUALITY: Mapping[Quality, str] = MappingProxyType(
    {
        Quality.FINAL: "as the upstream said at the end",
        Quality.PARTIAL: "counted up to where the answer was cut",
        Quality.ESTIMATED: "estimated by keymux",
        Quality.UNKNOWN: "unknown",
    }
)
_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "ok": "answered",
        "started": "sent; nothing more is known",
        "abandoned": "given up because the exchange ended",
        **{fault.code: (fault.__doc__ or "").partition("\n")[0] for fault in leaves()},
    }
)


def story(row: ExchangeRow, label: str) -> Iterator[str]:
    """What happened, from the request to the bill.

    Args:
        row: of the ledger.
        label: of the client key.
    """
    yield f"{row.id}  {plain(moment(row.at))}"
    named = f"{row.asked} -> {row.model}" if row.model not in {"", row.asked} else row.asked
    kind = "stream" if row.stream else "no stream"
    yield f"request: {named or 'no model was read'}; {row.format} {row.operation}, {kind}"
    yield f"caller:  {row.caller} {label}".rstrip()
    yield f"outcome: {row.outcome}: {_ENDS[row.outcome]}"
    yield f"told:    {_told(row)}"
    yield f"time:    {row.took_ms} ms{_first(row.first_ms)}"
    yield from _attempts(row.attempts)
    yield from _bill(row)
    if row.upstream_id:
        yield f"upstream request id: {row.upstream_id}"


def _told(row: ExchangeRow) -> str:
    if not row.fault:
        return f"{row.status}" if row.status else "nothing"
    meaning = _MEANINGS.get(row.fault, "")
    status = f"{row.status} " if row.status else ""
    return f"{status}{row.fault}: {meaning}".removesuffix(": ")


def _first(first_ms: int) -> str:
    return f", first event to the client after {first_ms} ms" if first_ms else ""


def _attempts(attempts: tuple[AttemptRecord, ...]) -> Iterator[str]:
    yield f"attempts: {len(attempts)}"
    for number, attempt in enumerate(attempts, 1):
        place = f"{attempt.provider} {attempt.model}"
        way = DIRECT if attempt.egress == DIRECT else f"via {attempt.egress}"
        yield f"{number:>3}. +{attempt.started_ms} ms  {place}  {attempt.key} {way}"
        meaning = _MEANINGS.get(attempt.outcome, "")
        yield f"     {attempt.outcome}{_status(attempt)}: {meaning}".removesuffix(": ")
        if attempt.reason:
            yield f"     it said: {attempt.reason}"
        first = f", first event after {attempt.first_ms} ms" if attempt.first_ms else ""
        work = _WORK.get(attempt.work, attempt.work)
        yield f"     took {attempt.took_ms} ms{first}; {work}{_stake(attempt)}"


def _status(attempt: AttemptRecord) -> str:
    return f" {attempt.status}" if attempt.status else ""


def _stake(attempt: AttemptRecord) -> str:
    if not attempt.billing:
        return ""
    return f", may be billed: about {attempt.tokens} tokens of prompt"


def _bill(row: ExchangeRow) -> Iterator[str]:
    used = row.usage
    written = used.cache_write_5m + used.cache_write_1h
    yield (
        f"tokens:  {used.input} input, {used.output} output ({used.reasoning} reasoning), "
        f"{used.cache_read} from cache, {written} to cache; {_QUALITY[row.quality]}"
    )
    if row.cost_micros is not None:
        yield f"cost:    ${dollars(row.cost_micros)}"
    elif row.bound_micros is not None:
        yield f"cost:    unknown, at most ${dollars(row.bound_micros)} for an attempt"
    else:
        yield "cost:    unknown"


def exchange_json(row: ExchangeRow) -> dict[str, object]:
    """The same for programs, under the names of the ledger."""
    found = _camel(msgspec.structs.asdict(row))
    return found | {
        "at": moment(row.at),
        "attempts": [_camel(msgspec.structs.asdict(attempt)) for attempt in row.attempts],
        "usage": _camel(msgspec.structs.asdict(row.usage)),
        "meaning": _MEANINGS.get(row.fault, ""),
    }


def _camel(fields: Mapping[str, object]) -> dict[str, object]:
    return {
        first + "".join(word.capitalize() for word in rest): value
        for name, value in fields.items()
        for first, *rest in [name.split("_")]
    }
