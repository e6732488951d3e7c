"""Canaries in the place of secrets: whatever goes wrong, none is seen where it should not be."""

import base64
import json
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest
from msgspec import Struct

from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import (
    Banned,
    Behaviour,
    ErrorMidStream,
    Html,
    LeaksKey,
    NoReply,
    Ok,
    OverloadedIn200,
    Raw,
    Redirect,
    Rejected,
    Revoked,
    Spent,
    Throttled,
    Truncated,
)
from tests.scenarios.rig import CLIENT_KEY, GatewayProcess, Keys, islands_of, key_id
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, chat, get, post

STRANGER = "Stranger-canary-7f3a9c51d0"
WAYS = [(path, stream) for path in (OPENAI_PATH, ANTHROPIC_PATH) for stream in (False, True)]
STATUSES = (200, 400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529)


def _secret(name: str) -> str:
    """An upstream key of no known shape, with letters that every encoding spells its own way."""
    odd = sha256(name.encode()).hexdigest()[:12]
    return f"canary-{odd}" if name.startswith("code") else f"Canary/{name}+of=upstream.{odd}"


def _spare(name: str) -> str:
    return f"Spare~{name}~{sha256(name[::-1].encode()).hexdigest()[:12]}"


def _spellings(secret: str) -> dict[str, str]:
    """Every way in which an upstream might say a key."""
    return {
        "plain": secret,
        "quoted": quote(secret, safe=""),
        "quoted_low": quote(secret, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        "slashed": secret.replace("/", "\\/"),
        "coded": "".join(f"\\u{ord(c):04x}" if c in "/+=" else c for c in secret),
        "base64": base64.b64encode(secret.encode()).decode(),
        "hashed": sha256(secret.encode()).hexdigest(),
    }


def _error(status: int, text: str) -> Raw:
    """A response of a status and a JSON error that says a text, written as it is."""
    body = b'{"error":{"type":"odd","message":"Key %b is odd"}}' % text.encode()
    head = b"HTTP/1.1 %d Odd\r\ncontent-type: application/json\r\nx-echo: %b\r\n" % (
        status,
        text.encode(),
    )
    return Raw(response=b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))


def _code(status: int, code: str) -> Raw:
    """A response of a status with a JSON error that has a text for its code and type."""
    error = {"message": "odd", "type": code, "code": code, "param": code}
    body = json.dumps({"type": "error", "error": error}).encode()
    head = b"HTTP/1.1 %d Odd\r\ncontent-type: application/json\r\n" % status
    return Raw(response=b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))


def _event(first: bytes, text: str) -> Raw:
    """A stream that begins with some bytes and then says a text in an error event."""
    error = b'event: error\ndata: {"type":"error","error":{"type":"odd","message":"%b"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return Raw(response=head + first + error % text.encode())


OPENAI_START = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n\n'
)
ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","type":"message",'
    b'"role":"assistant","model":"m","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Hi"}}\n\n'
)


def _behaviours() -> dict[str, Behaviour]:
    """What goes wrong, by the name of the provider where it does."""
    plain: dict[str, Behaviour] = {
        "well": Ok(),
        "banned": Banned(),
        "cut": Truncated(),
        "failing": ErrorMidStream(),
        "html": Html(),
        "lost": NoReply(),
        "overloaded": OverloadedIn200(),
        "rejected": Rejected(),
        "revoked": Revoked(),
        "spent": Spent(),
        "throttled": Throttled(),
    }
    leaking = {f"leaks_{status}": LeaksKey(status) for status in STATUSES}
    spelled = {
        f"says_{how}_{status}": _error(status, _spellings(_secret(f"says_{how}_{status}"))[how])
        for how in _spellings("")
        for status in (400, 401, 500)
    }
    codes = {f"code_{status}": _code(status, _secret(f"code_{status}")) for status in CODED}
    streams = {
        "event_first": _event(b"", _secret("event_first")),
        "event_openai": _event(OPENAI_START, _secret("event_openai")),
        "event_anthropic": _event(ANTHROPIC_START, _secret("event_anthropic")),
        "in_200": _error(200, _secret("in_200")),
        "away": Redirect(location=f"/elsewhere?key={quote(_secret('away'), safe='')}"),
    }
    return {**plain, **leaking, **spelled, **codes, **streams}


class Story(Struct):
    """Everything that could be seen while all of that went wrong, by where it was seen.

    Attributes:
        responses: to the caller, by the model that was asked for.
        places: bytes by their place: log, metrics, commands, database, journal.
        upstream: bytes that reached the upstream, headers and bodies.
    """

    responses: list[tuple[str, Response]]
    places: dict[str, bytes]
    upstream: list[tuple[str, bytes]]


COMMANDS = [
    ["usage", "--by", "key"],
    ["audit"],
    ["clients", "list"],
    ["providers", "list"],
    ["check"],
]
COMMANDS_FOR_EACH = [
    ["keys", "list", "{}", "--json"],
    ["backup-keys", "list", "{}"],
    ["keys", "test", "{}"],
    ["explain", "{}"],
]
LOOKED_AT = ("code_401",)
CODED = (200, 401, 429, 500)


def _responses(gateway: GatewayProcess) -> list[tuple[str, Response]]:
    found = [
        (model, post(gateway.port, path, chat(stream=stream, model=model)))
        for model in _behaviours()
        for path, stream in WAYS
    ]
    for path in (OPENAI_PATH, ANTHROPIC_PATH):
        for name in ("Authorization", "x-api-key"):
            headers = {"Authorization": "", name: f"Bearer {STRANGER}"}
            found.append(("", post(gateway.port, path, chat(), headers)))
            found.append(("", get(gateway.port, "/v1/models", headers)))
    return found


def _said_by_commands(gateway: GatewayProcess, responses: list[tuple[str, Response]]) -> bytes:
    """What commands say, each run once; two at a time."""
    ids = [
        next(one for model, one in responses if model == name).headers["x-keymux-request-id"]
        for name in LOOKED_AT
    ]
    commands = [
        *COMMANDS,
        *(
            [word.format(name) for word in words]
            for words in COMMANDS_FOR_EACH
            for name in LOOKED_AT
        ),
        *(["explain", request_id] for request_id in ids),
    ]
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda command: gateway.run(*command), commands))
    return "".join(f"{one.args}\n{one.stdout}{one.stderr}\n" for one in told).encode()


def _database(path: Path) -> bytes:
    """All cells of all tables but the column that upstream keys are stored in."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        cells = [
            f"{table}.{column}={row[column]}\n"
            for table in tables
            for row in database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 -- its own names
            for column in row.keys()  # noqa: SIM118 -- a row is no mapping
            if column not in {"apiKey", "keyHash"}
        ]
    return "".join(cells).encode()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everything goes wrong once in every way, and everything that can be looked at is."""
    behaviours = _behaviours()
    keys = {name: Keys([_secret(name)], backups=[_spare(name)]) for name in behaviours}
    folder = tmp_path_factory.mktemp("secrets")
    with SandboxThread() as sandbox:
        for name, behaviour in behaviours.items():
            sandbox.behave(_secret(name), behaviour)
        config = islands_of(sandbox.url("openhands"), behaviours, log={"level": "debug"})
        with GatewayProcess(folder, config, keys) as gateway:
            responses = _responses(gateway)
            said = _said_by_commands(gateway, responses)
            pages = [get(gateway.port, page) for page in ("/metrics", "/health", "/v1/models")]
            journal = b"".join(path.read_bytes() for path in folder.glob("keymux.journal/*/*"))
            programs = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in gateway.workers()]
        seen = [
            (one.key, repr((one.headers, one.target)).encode() + one.body) for one in sandbox.seen
        ]
        yield Story(
            responses,
            {
                "responses": b"".join(_all_of(response) for _, response in responses),
                "pages": b"".join(_all_of(page) for page in pages),
                "commands": said,
                "greeting": gateway.said().encode(),
                "log": gateway.log_path.read_bytes(),
                "journal": journal,
                "database": _database(gateway.database),
                "arguments of processes": b"".join(programs),
            },
            seen,
        )


def _all_of(response: Response) -> bytes:
    headers = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
    return headers.encode() + response.body + b"\n"


PLACES = pytest.mark.parametrize(
    "place",
    [
        "responses",
        "pages",
        "commands",
        "greeting",
        "log",
        "journal",
        "database",
        "arguments of processes",
    ],
)


def _found(text: bytes, secrets: Mapping[str, str]) -> dict[str, list[str]]:
    """Which secrets are in a text, in which spellings."""
    found = {
        name: [how for how, said in _spellings(secret).items() if said.encode() in text]
        for name, secret in secrets.items()
    }
    return {name: how for name, how in found.items() if how}


@PLACES
def test_no_upstream_key_is_seen(story: Story, place: str) -> None:
    """Neither those in use nor the spare ones, in no spelling."""
    keys = {name: _secret(name) for name in _behaviours()}
    spares = {f"spare of {name}": _spare(name) for name in _behaviours()}

    assert _found(story.places[place], {**keys, **spares}) == {}


@PLACES
def test_no_client_key_is_seen(story: Story, place: str) -> None:
    """Neither the good one nor the one that a stranger tried."""
    assert _found(story.places[place], {"client": CLIENT_KEY, "stranger": STRANGER}) == {}


def test_no_client_key_reaches_an_upstream(story: Story) -> None:
    """It is taken off every request; each provider sees its own key and no other."""
    secrets = {_secret(name) for name in _behaviours()} | {_spare(name) for name in _behaviours()}

    assert len(story.upstream) > len(_behaviours())
    for key, request in story.upstream:
        assert CLIENT_KEY.encode() not in request
        assert {secret for secret in secrets if secret.encode() in request} == {key}


def test_the_owner_of_a_key_is_not_named(story: Story) -> None:
    """Accounts and organizations of the provider are none of the client's business."""
    text = story.places["responses"]

    assert b"owner@sandbox.example" not in text
    assert b"set-cookie" not in text.lower()
    assert b"openai-organization" not in text


@pytest.mark.parametrize("name", ["leaks_400", "says_plain_400", "says_coded_400"])
def test_the_rest_of_a_message_stays(story: Story, name: str) -> None:
    """What the provider had to say is passed on, with the key struck out."""
    bodies = [response.body for model, response in story.responses if model == name]

    assert len(bodies) == len(WAYS)
    assert all(b"***" in body for body in bodies)
    assert all(b"ncorrect API key" in body or b"is odd" in body for body in bodies)


def test_the_checks_can_tell(story: Story) -> None:
    """Ids of keys are where operators look for them, and everything was looked at."""
    assert all(story.places.values())
    for place in ("commands", "log", "database"):
        assert key_id(_secret("code_401")).encode() in story.places[place]
    assert _found(json.dumps(_secret("well")).encode(), {"well": _secret("well")})
