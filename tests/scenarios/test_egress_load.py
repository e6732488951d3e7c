"""Two proxies and two keys of each provider under load, while the proxies die in turn."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec import Struct

from keymux.core.health import Status
from keymux.sandbox.behaviours import Slow
from tests.egress.programs import MicroSocks, Program, TinyProxy
from tests.egress.site import DIALECTS, HERE, WAYS, Island, Site, secret_of, site, upstream
from tests.scenarios.hosts import STORES, database, markers
from tests.scenarios.rig import IS_LONG
from tests.scenarios.wire import Connection, chat

REQUESTS = 100_000 if IS_LONG else 1_500
CLIENTS = 12
UP_S, DOWN_S = 1.5, 0.7
PROVIDERS = [f"load_{dialect}" for dialect in DIALECTS]
MODELS = ["load", "back"]
BROKEN_OFF = {"stream_broken", "upstream_truncated"}
"""What a client is told when its answer had begun: nobody may ask for it again."""


class Answered(Struct, frozen=True):
    """An answer.

    Attributes:
        request_id: that it bore.
        status: of the answer.
        is_whole: whether the end of its format was there.
    """

    request_id: str
    status: int
    is_whole: bool


class Load:
    """Clients that ask one request after the other, in every way there is.

    Attributes:
        answered: what came back.
        sources: how often each key was seen from where.
    """

    def __init__(self, running: Site) -> None:
        self._running = running
        self._numbers = count()
        self._last = 0
        self.answered: list[Answered] = []
        self.sources: Counter[tuple[str, str]] = Counter()

    @property
    def is_over(self) -> bool:
        """Whether enough was asked."""
        return len(self.answered) >= REQUESTS

    async def run(self, proxies: list[Program]) -> int:
        """Ask until it is enough; gives how often a proxy was killed."""
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(self._kill(proxies))
            group.create_task(self._watch())
            for _ in range(CLIENTS):
                group.create_task(self._client())
        await self._look()
        return killing.result()

    async def _client(self) -> None:
        async with await Connection.open(self._running.hosts[0].port) as connection:
            while not self.is_over:
                number = next(self._numbers)
                path, stream = WAYS[number % len(WAYS)]
                model = MODELS[number // len(WAYS) % len(MODELS)]
                text = f"marker:n{number}"
                await connection.ask(path, chat(text, model=model, stream=stream))
                response = await connection.answer()
                assert response.complete
                assert markers(response.body) <= {text}
                end = b"[DONE]" if "chat" in path else b"message_stop"
                is_whole = end in response.body if stream else response.status == 200
                request_id = response.headers["x-keymux-request-id"]
                self.answered.append(Answered(request_id, response.status, is_whole))

    async def _kill(self, proxies: list[Program]) -> int:
        killed = 0
        while not self.is_over:
            await asyncio.sleep(UP_S)
            victim = proxies[killed % len(proxies)]
            victim.kill()
            killed += 1
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(victim.restart)
        return killed

    async def _watch(self) -> None:
        """The upstream forgets the oldest of its records."""
        while not self.is_over:
            await self._look()
            await asyncio.sleep(0.5)

    async def _look(self) -> None:
        for one in await asyncio.to_thread(self._running.up.sandbox.seen_since, self._last):
            self.sources[one.key, one.source] += 1
            self._last = one.number


@pytest.fixture(params=STORES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    with database(request.param, tmp_path) as found:
        yield found


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(3600 if IS_LONG else 120)
def test_each_key_leaves_by_its_own_proxy(address: str, tmp_path: Path) -> None:
    """Whatever dies: no key is ever seen from elsewhere, and no client is told of it."""
    islands = {"load": Island({"a": {"micro": 1}, "b": {"tiny": 1}})}
    egress = {"retry_s": [0.3], "check_every_s": 5, "connect_s": 5}
    with (
        upstream(tmp_path) as up,
        MicroSocks("127.0.0.61") as micro,
        TinyProxy("127.0.0.62") as tiny,
        site(
            tmp_path,
            address,
            up,
            islands,
            {"micro": micro.address, "tiny": tiny.address},
            egress=egress,
            workers=2,
            routes={"back": PROVIDERS[::-1]},
        ) as running,
    ):
        for provider in PROVIDERS:
            for key in ("a", "b"):
                up.sandbox.behave(secret_of(provider, key), Slow(0.0, 0.0))
        load = Load(running)
        killed = asyncio.run(load.run([micro, tiny]))
        host = running.hosts[0]
        host.stop()
        rows = {row.id: row for row in host.rows()}
        states = [key.state.status for name in PROVIDERS for key in host.stored_keys(name).values()]
        log = host.log_path.read_text()
    failed = [one for one in load.answered if one.status != 200 or not one.is_whole]
    faults = Counter(rows[one.request_id].fault for one in failed)

    assert set(load.sources) == {
        (secret_of(provider, key), proxy.source)
        for provider in PROVIDERS
        for key, proxy in (("a", micro), ("b", tiny))
    }
    assert HERE not in {source for _, source in load.sources}
    assert killed >= 2
    assert set(faults) <= BROKEN_OFF, faults
    assert len(failed) <= killed * CLIENTS
    assert len(rows) == len(load.answered)
    assert "internal" not in {row.fault for row in rows.values()}
    assert "Traceback" not in log
    assert states == [Status.HEALTHY] * 4
