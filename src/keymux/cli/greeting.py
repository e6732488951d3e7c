"""What ``keymux serve`` says when it starts: where it listens, and how to get a first answer."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from keymux.settings import ModelSettings, Settings

_TOKENS = 256


def greeting(
    settings: Settings, config: Path, client_key: str, pools: Mapping[str, int]
) -> Iterator[str]:
    """The lines to print.

    Args:
        settings: what is started.
        config: where it was read from.
        client_key: that was made just now, empty if there were some already.
        pools: how many keys each provider has.
    """
    at = f"--config {shlex.quote(str(config))}"
    yield f"keymux listens on {_url(settings)}"
    yield ""
    if client_key:
        yield "Client key, shown this once; programs send it as their API key:"
        yield f"  {client_key}"
    else:
        yield f"Client keys: keymux clients list {at}"
        yield f"Another one: keymux clients add --label NAME {at}"
    for name in (name for name, count in pools.items() if not count):
        yield ""
        yield f"The provider {name} has no keys yet. Give it some, one a line:"
        yield f"  keymux keys add {name} --stdin {at} < keys.txt"
    if any(pools.values()):
        yield ""
        yield from _to_try(settings, client_key)
    yield ""


def _to_try(settings: Settings, client_key: str) -> Iterator[str]:
    name = _short_name(min(settings.models, key=_dearness))
    if client_key:
        yield "To try it:"
    else:
        yield "To try it, with your client key in KEYMUX_KEY:"
    key = client_key or "$KEYMUX_KEY"
    for path, signature in (
        ("/v1/chat/completions", f"Authorization: Bearer {key}"),
        ("/v1/messages", f"x-api-key: {key}"),
    ):
        yield ""
        yield _curl(settings, path, signature, name)


def _curl(settings: Settings, path: str, signature: str, model: str) -> str:
    body = msgspec.json.encode(
        {
            "model": model,
            "max_tokens": _TOKENS,
            "stream": True,
            "messages": [{"role": "user", "content": "Hello!"}],
        }
    ).decode()
    version = " -H 'anthropic-version: 2023-06-01'" if path.endswith("messages") else ""
    # The key may stand for a variable of the shell, so it goes into double quotes.
    return (
        f'  curl -N {_url(settings)}{path} -H "{signature}"{version}'
        f" -H 'content-type: application/json' -d {shlex.quote(body)}"
    )


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _dearness(model: ModelSettings) -> float:
    return model.price.output if model.price else float("inf")


def _short_name(model: ModelSettings) -> str:
    """The name that people use: the shortest alias that stands for one model only."""
    names = [alias for alias in model.aliases if not alias.endswith("*")]
    return min([*names, model.id], key=len)
