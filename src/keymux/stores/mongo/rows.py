"""The audit and the ledger as documents: lines that are written once and never changed."""

from collections.abc import Mapping
from typing import Any

from keymux.core.records import AttemptRecord, AuditRow, ExchangeRow, Outcome
from keymux.core.vocabulary import Quality, Usage
from keymux.stores.mongo.fields import (
    Document,
    WrongField,
    date,
    flag,
    moment,
    name_of,
    number,
    optional_number,
    text,
)


# -- the audit -------------------------------------------------------------------------------------
def audit_row(collection: str, document: Document) -> AuditRow:  # noqa: ARG001 -- all readers of documents are called alike
    """A line of the audit.

    Raises:
        WrongField: the document cannot be understood.
    """
    return AuditRow(
        seq=number(document, "seq"),
        at=moment(document, "at") or 0,
        actor=text(document, "actor"),
        action=text(document, "action"),
        provider=text(document, "provider"),
        subject=text(document, "subject"),
        before=text(document, "before"),
        after=text(document, "after"),
        reason=text(document, "reason"),
    )


# -- the ledger ------------------------------------------------------------------------------------
def exchange_document(row: ExchangeRow) -> dict[str, Any]:
    """An exchange as it is stored."""
    usage = row.usage
    return {
        "_id": row.id,
        "at": date(row.at),
        "caller": row.caller,
        "format": row.format,
        "operation": row.operation,
        "asked": row.asked,
        "model": row.model,
        "stream": row.stream,
        "outcome": row.outcome.value,
        "fault": row.fault,
        "status": row.status,
        "provider": row.provider,
        "key": row.key,
        "attempts": [_attempt_document(attempt) for attempt in row.attempts],
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "cacheReadTokens": usage.cache_read,
        "cacheWrite5mTokens": usage.cache_write_5m,
        "cacheWrite1hTokens": usage.cache_write_1h,
        "reasoningTokens": usage.reasoning,
        "quality": row.quality.value,
        "costMicros": row.cost_micros,
        "boundMicros": row.bound_micros,
        "firstMs": row.first_ms,
        "tookMs": row.took_ms,
        "upstreamId": row.upstream_id,
    }


def _attempt_document(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "model": attempt.model,
        "key": attempt.key,
        "egress": attempt.egress,
        "outcome": attempt.outcome,
        "work": attempt.work,
        "status": attempt.status,
        "reason": attempt.reason,
        "startedMs": attempt.started_ms,
        "firstMs": attempt.first_ms,
        "tookMs": attempt.took_ms,
        "billing": attempt.billing,
        "tokens": attempt.tokens,
    }


def exchange_row(collection: str, document: Document) -> ExchangeRow:  # noqa: ARG001 -- as above
    """An exchange.

    Raises:
        WrongField: the document cannot be understood.
    """
    return ExchangeRow(
        id=name_of(document),
        at=moment(document, "at") or 0,
        caller=text(document, "caller"),
        format=text(document, "format"),
        operation=text(document, "operation"),
        asked=text(document, "asked"),
        model=text(document, "model"),
        stream=flag(document, "stream"),
        outcome=Outcome(_one_of(Outcome, document, "outcome")),
        fault=text(document, "fault"),
        status=number(document, "status"),
        provider=text(document, "provider"),
        key=text(document, "key"),
        attempts=tuple(_attempt(each) for each in _listed(document, "attempts")),
        usage=_usage(document),
        quality=Quality(_one_of(Quality, document, "quality")),
        cost_micros=optional_number(document, "costMicros"),
        bound_micros=optional_number(document, "boundMicros"),
        first_ms=number(document, "firstMs"),
        took_ms=number(document, "tookMs"),
        upstream_id=text(document, "upstreamId"),
    )


def _one_of(words: type[Outcome] | type[Quality], document: Document, name: str) -> str:
    word = text(document, name)
    if word not in set(words):
        raise WrongField(name)
    return word


def _listed(document: Document, name: str) -> list[Document]:
    found = document.get(name)
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise WrongField(name)
    return found


def _usage(document: Document) -> Usage:
    return Usage(
        input=number(document, "inputTokens"),
        output=number(document, "outputTokens"),
        cache_read=number(document, "cacheReadTokens"),
        cache_write_5m=number(document, "cacheWrite5mTokens"),
        cache_write_1h=number(document, "cacheWrite1hTokens"),
        reasoning=number(document, "reasoningTokens"),
    )


def _attempt(document: Document) -> AttemptRecord:
    return AttemptRecord(
        provider=text(document, "provider"),
        model=text(document, "model"),
        key=text(document, "key"),
        egress=text(document, "egress"),
        outcome=text(document, "outcome"),
        work=text(document, "work"),
        status=number(document, "status"),
        reason=text(document, "reason"),
        started_ms=number(document, "startedMs"),
        first_ms=number(document, "firstMs"),
        took_ms=number(document, "tookMs"),
        billing=text(document, "billing"),
        tokens=number(document, "tokens"),
    )
