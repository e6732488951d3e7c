"""Documents of egress proxies and bindings, and the records they stand for.

A proxy that cannot be understood is left out, which keeps the keys that are bound to it from being
used. A binding is never left out if its key is known: without it the key would go directly.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from keymux.core.egress import (
    FIRST_PRIORITY,
    LAST_PRIORITY,
    BindingRecord,
    ExitState,
    ProxyAddress,
    ProxyRecord,
    ProxyType,
    status_of,
)
from keymux.core.secrets import hash_of
from keymux.stores.egress import clamped, exit_status, identity
from keymux.stores.mongo.database import collection_name
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
from keymux.stores.mongo.reading import Reader

T = TypeVar("T")

PROXIES = "proxies"
_TYPES = {one.value: one for one in ProxyType} | {
    "": ProxyType.HTTP,
    "socks": ProxyType.SOCKS5,
    "socks5h": ProxyType.SOCKS5,
}
_LAST_PORT = 65_535


# -- proxies ---------------------------------------------------------------------------------------
def proxy_record(collection: str, document: Document) -> ProxyRecord:  # noqa: ARG001 -- all readers are called alike
    """An egress proxy; what only informs people is passed over where it is wrong.

    Raises:
        WrongField: where it is, or whether it may be used, cannot be understood.
    """
    name = name_of(document)
    if not name:
        raise WrongField("_id")
    return ProxyRecord(
        id=name,
        name=_or(text, document, "name", ""),
        address=_address(document),
        is_active=document.get("isActive") is None or flag(document, "isActive"),
        exits=exits_of(document),
        last_latency_ms=_or(optional_number, document, "lastLatencyMs", None),
        last_checked_at=_or(moment, document, "lastCheckedAt", None),
        last_error=_or(text, document, "lastError", ""),
        fail_count=_or(number, document, "failCount", 0),
        created_at=_or(moment, document, "createdAt", None) or 0,
    )


def _or(
    read: Callable[[Document, str], T],
    document: Document,
    name: str,
    otherwise: T,
) -> T:
    try:
        return read(document, name)
    except WrongField:
        return otherwise


def _address(document: Document) -> ProxyAddress:
    kind = _TYPES.get(text(document, "type").lower())
    if kind is None:
        raise WrongField("type")
    host = text(document, "host").strip().removeprefix("[").removesuffix("]")
    if not host:
        raise WrongField("host")
    return ProxyAddress(
        type=kind,
        host=host,
        port=_port(document),
        username=text(document, "username"),
        password=text(document, "password"),
    )


def _port(document: Document) -> int:
    value = document.get("port")
    is_text = isinstance(value, str) and value.isascii() and value.isdigit()
    port = int(str(value)[:9]) if is_text else number(document, "port")
    if not 0 < port <= _LAST_PORT:
        raise WrongField("port")
    return port


def exits_of(document: Document) -> dict[str, ExitState]:
    """How providers can be reached through a proxy; what is no such thing is passed over."""
    listed = document.get("exits")
    found: dict[str, ExitState] = {}
    for provider, each in listed.items() if isinstance(listed, Mapping) else ():
        try:
            found[provider] = ExitState(
                status=exit_status(text(each, "status")),
                until=moment(each, "until"),
                reason=text(each, "reason"),
                step=number(each, "step"),
                generation=number(each, "generation"),
            )
        except (WrongField, AttributeError):
            continue
    return found


def exit_document(state: ExitState, before: str) -> dict[str, Any]:
    """How a provider can be reached, and its status before, until that is audited."""
    return {
        "status": state.status.value,
        "until": date(state.until),
        "reason": state.reason,
        "step": state.step,
        "generation": state.generation,
        "before": before,
    }


def exit_documents(exits: Mapping[str, ExitState]) -> dict[str, Any]:
    """How providers can be reached, with nothing to be audited."""
    return {name: exit_document(state, state.status.value) for name, state in exits.items()}


def seen_fields(record: ProxyRecord) -> dict[str, Any]:
    """The fields that change with what is found out about a proxy, but for its exits."""
    return {
        "status": record.status.value,
        "lastLatencyMs": record.last_latency_ms,
        "lastCheckedAt": date(record.last_checked_at),
        "lastError": record.last_error,
        "failCount": record.fail_count,
    }


def proxy_document(record: ProxyRecord, now: int) -> dict[str, Any]:
    """A proxy, with its password in the clear."""
    address = record.address
    return {
        "_id": record.id,
        "name": record.name,
        "type": address.type.value,
        "host": address.host,
        "port": address.port,
        "username": address.username,
        "password": address.password,
        "addressHash": address_hash(address),
        "isActive": record.is_active,
        "exits": exit_documents(record.exits),
        **seen_fields(record),
        "createdAt": date(record.created_at or now),
    }


def address_hash(address: ProxyAddress) -> str:
    """By it a unique index lets an address be there once."""
    return hash_of(repr(identity(address)))


def taken_by(document: Document) -> set[object]:
    """What no other proxy may have: the id, the name and the address, as far as they are known."""
    taken: set[object] = {("_id", str(document["_id"]))}
    for field in ("name", "addressHash"):
        if value := _or(text, document, field, ""):
            taken.add((field, value))
    with suppress(WrongField):
        taken.add(("addressHash", address_hash(_address({**document, "password": ""}))))
    return taken


def status_word(exits: Mapping[str, ExitState]) -> str:
    """The status of a proxy as it is stored."""
    return status_of(exits.values()).value


# -- bindings --------------------------------------------------------------------------------------
def key_field(provider: str) -> str:
    """The field with the key of a binding."""
    return f"{provider}KeyId"


def binding_records(
    reader: Reader, provider: str, documents: Iterable[Document]
) -> list[BindingRecord]:
    """The bindings that documents stand for, oldest first."""
    found = (_binding_record(reader, provider, document) for document in documents)
    return sorted(
        (record for record in found if record is not None),
        key=lambda record: (record.created_at, record.id),
    )


def _binding_record(reader: Reader, provider: str, document: Document) -> BindingRecord | None:
    """A binding, if it is known whose; else it is told of."""
    where = f"{collection_name(provider, 'bindings')}: the document {document['_id']!r}"
    key_id = key_of(provider, document)
    if not key_id:
        reader.tell(
            f"{where} is left out: its field {key_field(provider)} is missing or of the wrong type"
        )
        return None

    def read(name: str, reading: Callable[[Document, str], T], otherwise: T) -> T:
        try:
            return reading(document, name)
        except WrongField:
            reader.tell(f"{where} is not as it should be: its field {name} cannot be understood")
            return otherwise

    return BindingRecord(
        id=read("_id", name_of, str(document["_id"])),
        proxy_id=read("proxyId", _required, ""),
        key_id=key_id,
        priority=read("priority", _priority, LAST_PRIORITY),
        is_active=read("isActive", _active, otherwise=False),
        created_at=read("createdAt", moment, None) or 0,
    )


def key_of(provider: str, document: Document) -> str:
    """The key of a binding; empty if it cannot be read."""
    return _or(name_of, document, key_field(provider), "")


def proxy_of(document: Document) -> str:
    """The proxy of a binding; empty if it cannot be read."""
    return _or(name_of, document, "proxyId", "")


def _required(document: Document, name: str) -> str:
    found = name_of(document, name)
    if not found:
        raise WrongField(name)
    return found


def _priority(document: Document, name: str) -> int:
    found = optional_number(document, name)
    return FIRST_PRIORITY if found is None else clamped(found)


def _active(document: Document, name: str) -> bool:
    return document.get(name) is None or flag(document, name)


def binding_document(provider: str, record: BindingRecord, now: int) -> dict[str, Any]:
    """A new binding."""
    return {
        "_id": record.id,
        "proxyId": record.proxy_id,
        key_field(provider): record.key_id,
        "priority": clamped(record.priority),
        "isActive": record.is_active,
        "createdAt": date(record.created_at or now),
    }
