"""The requests that are sent: a chat completion of one kilobyte, streamed or not."""

import json
from pathlib import Path

UPSTREAM_MODEL = "claude-sonnet-4-5-20250929"
REQUEST_BYTES = 1024


def body(model: str, *, stream: bool) -> bytes:
    """A request body of exactly `REQUEST_BYTES`; a stream's includes usage, as SDK programs ask."""
    request: dict[str, object] = {"model": model, "max_tokens": 512, "temperature": 0.7}
    if stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    bare = _encoded(request, "")
    return _encoded(request, "word " * REQUEST_BYTES, cut=REQUEST_BYTES - len(bare))


def _encoded(request: dict[str, object], text: str, cut: int = 0) -> bytes:
    messages = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": text[:cut]},
    ]
    return json.dumps({**request, "messages": messages}, separators=(",", ":")).encode()


def written(folder: Path, model: str, *, stream: bool) -> Path:
    """The same as a file, for programs that read it."""
    path = folder / f"{model}{'-stream' if stream else ''}.json"
    path.write_bytes(body(model, stream=stream))
    return path
