"""``GET /v1/models`` and ``/v1/models/{id}``: one shape that satisfies both official SDKs."""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from keymux.core.faults import UnknownModel
from keymux.core.routing import Model, Routes
from keymux.core.vocabulary import Caller

_OWNER = "keymux"


def _shape(model: Model) -> dict[str, object]:
    created = datetime.fromtimestamp(model.created, UTC)
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": _OWNER,
        "type": "model",
        "display_name": model.name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
    }


def _allowed(routes: Routes, caller: Caller) -> Iterable[Model]:
    return (
        model for model in routes.models.values() if not caller.models or model.id in caller.models
    )


def listed(routes: Routes, caller: Caller) -> bytes:
    """All models a caller may use."""
    found = [_shape(model) for model in _allowed(routes, caller)]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": found,
            "has_more": False,
            "first_id": found[0]["id"] if found else None,
            "last_id": found[-1]["id"] if found else None,
        }
    )


def one(routes: Routes, caller: Caller, name: str) -> bytes:
    """One model, by its id or any alias.

    Raises:
        UnknownModel: the caller may use none of that name.
    """
    model = routes.find(name)
    if model is None or model not in _allowed(routes, caller):
        raise UnknownModel(model=name[:200])
    return msgspec.json.encode(_shape(model))
