"""The list of models, in one object shape that satisfies both official SDKs."""

from datetime import UTC, datetime

import msgspec

_SERVED = (
    ("claude-opus-4-5-20251101", "Claude Opus 4.5", 1761955200),
    ("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", 1759104000),
    ("claude-haiku-4-5-20251001", "Claude Haiku 4.5", 1759276800),
)
_UNKNOWN_SINCE = 1759104000


def model_list() -> bytes:
    """``GET /v1/models``."""
    objects = [_model(*served) for served in _SERVED]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": objects,
            "has_more": False,
            "first_id": objects[0]["id"],
            "last_id": objects[-1]["id"],
        }
    )


def model_named(name: str) -> bytes:
    """``GET /v1/models/{id}``: the sandbox serves every model it is asked for."""
    for served in _SERVED:
        if served[0] == name:
            return msgspec.json.encode(_model(*served))
    return msgspec.json.encode(_model(name, name, _UNKNOWN_SINCE))


def _model(name: str, title: str, created: int) -> dict[str, object]:
    moment = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "sandbox",
        "type": "model",
        "display_name": title,
        "created_at": moment,
        "lifecycle": "active",
    }
