"""The composition root: settings in, application out; the only file that knows every part."""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from keymux.background import Background
from keymux.configured import needing_restart, regimen, services, terms
from keymux.core.faults import Draining
from keymux.core.health import Status
from keymux.core.records import AuditRow, ExchangeRow, KeyRecord, ProviderState
from keymux.exchange.admit import Admission
from keymux.exchange.authenticate import Doorkeeper
from keymux.exchange.counting import Lacking
from keymux.exchange.dispatch import Dispatcher
from keymux.exchange.serve import Gateway, Parts
from keymux.exchange.settle import Ledger
from keymux.exchange.watch import Watch
from keymux.following import Follower
from keymux.ids import record_id
from keymux.ingress.front import Front
from keymux.ingress.operations import Readiness, pages
from keymux.ingress.server import DRAIN, END_NOW, RELOAD, listen_again
from keymux.pools.budget import RetryBudget
from keymux.pools.effects import Change, Effects
from keymux.pools.keeping import Keeper
from keymux.pools.leasing import Leasing
from keymux.pools.permits import Permits
from keymux.pools.persistence import Clocks
from keymux.pools.pool import Pool
from keymux.settings import BadConfig, Settings, load
from keymux.stores.bookkeeping import Bookkeeper, recover
from keymux.stores.journal import Journal, orphans
from keymux.stores.opening import open_store
from keymux.stores.port import Store, StoreUnavailable, StoreUnusable
from keymux.telemetry.logs import LineSink, Logs
from keymux.telemetry.metrics import KEYS_NAMED_UP_TO, Gauges, Metrics, Standing
from keymux.telemetry.redaction import Redactor, redact_body
from keymux.telemetry.siblings import PUBLISH_EVERY_S, Siblings
from keymux.tuning import parent_gone, prefer_throughput, settle_memory
from keymux.upstream.asking import Upstreams
from keymux.upstream.transport import Transport

_UNTIL_SERVING_S = 0.1
TIDY_EVERY_S = 1.0


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Application:
    """One worker process: every part, plugged together.

    Args:
        settings: as read from
        config: this file, which is read again on SIGHUP.
        siblings: where the workers of this host meet; None for a worker without any.
    """

    def __init__(self, settings: Settings, config: Path, siblings: Siblings | None = None) -> None:
        self._config = config
        self.settings = self._started_with = settings
        name = record_id("worker")
        # in containers, neither the name of the host nor the number of the process need be unique
        self.actor = f"{socket.gethostname()}:{os.getpid()}-{name[-4:]}"
        self._luck = random.Random()  # noqa: S311 -- jitter
        self._clocks = Clocks(time.monotonic, wall_ms)
        self._redactor = Redactor()
        self._sink = LineSink()
        self.logs = Logs(self._sink, self._redactor, settings.log.level, settings.log.format)
        self.background = Background(self._report)
        self.metrics = Metrics(self._gauges, siblings)
        self.readiness = Readiness()
        self.store = open_store(settings, self._tell_of_store)
        self._journal = Journal(settings.journal_folder, name)
        self.book = Bookkeeper(self._journal, self.store.ledger, self._settled, self._alarm)
        self.doorkeeper = Doorkeeper()
        self.admission = Admission()
        self.watch = Watch(time.monotonic, self.background.spawn)
        self._transport = Transport(settings.timeouts.connect_s)
        self._upstreams = Upstreams(self._transport, redact_body, time.time)
        self._configure(settings)
        self.pools: dict[str, Pool] = {name: self._pool(name) for name in settings.providers}
        self._effects = Effects(regimen(settings), time.monotonic, self._luck, self._changed)
        self.keeper = Keeper(
            self.pools,
            _KeyStore(self.store, self.actor, self._redactor),
            self.book.note,
            self._clocks,
            self.actor,
            self.background.spawn,
        )
        self.gateway = Gateway(self._parts())
        self.follower = Follower(self.store.audit, self._take_over, self._away)
        self._backups: dict[tuple[str, ...], int] = {}

    def _parts(self) -> Parts:
        retry = self.settings.retry
        self._leasing = Leasing(
            self.pools,
            self._effects,
            clock=time.monotonic,
            luck=self._luck,
            queue_s=retry.queue_s,
            queue_length=retry.queue_length,
            waited=self.metrics.queued,
        )
        return Parts(
            terms=lambda: self._terms,
            callers=self.doorkeeper,
            watch=self.watch,
            ledger=Ledger(self.book, wall_ms, self.metrics.turned_away),
            admission=self.admission,
            dispatcher=Dispatcher(
                self._leasing, self._upstreams, self._luck, Lacking(time.monotonic)
            ),
            report=self._report,
        )

    def _configure(self, settings: Settings) -> None:
        """Put new settings in place: the next exchange begins under them."""
        found = services(settings)
        self._upstreams.configure(found, settings.limits.answer_bytes)
        self._terms = terms(settings, found)

    def _pool(self, name: str) -> Pool:
        retry = self.settings.retry
        budget = RetryBudget(percent=retry.budget_percent, floor=retry.budget_floor)
        return Pool(name, budget, self._permits())

    def _permits(self) -> Permits:
        return Permits(
            _Claims(self.store), self.actor, time.monotonic, self._luck, self.background.spawn
        )

    def front(self) -> Front:
        """The application as the server calls it."""
        return Front(
            self.gateway,
            self.doorkeeper,
            lambda: self._terms,
            pages(self.readiness, self.metrics.page),
            self,
        )

    # -- life ----------------------------------------------------------------------------------
    async def start(self) -> None:
        """Load what is remembered and begin to work.

        Raises:
            StoreUnavailable: the store cannot be opened.
            StoreUnusable: it is not ours, or too new.
        """
        prefer_throughput()
        self._sink.start()
        try:
            interrupted = await self._load()
        except (StoreUnavailable, StoreUnusable) as error:
            self.logs.logger.error("not started", problem=str(error))
            self._sink.stop()
            raise
        for work in (
            self.book.run(),
            self.book.keep_tidy(),
            self.watch.run(),
            self.follower.run(),
            self._tidy(),
            self._mind_the_parent(),
            self._publish(),
        ):
            self.background.spawn(work)
        self._listen_to_signals()
        settle_memory()
        self.readiness.is_ready = True
        self.logs.logger.info(
            "ready",
            address=f"http://{self.settings.host}:{self.settings.port}",
            keys={name: len(pool.keys) for name, pool in self.pools.items()},
            interrupted_exchanges=interrupted,
        )

    async def _load(self) -> int:
        """Everything that is remembered; gives the number of exchanges found without an end."""
        await self.store.prepare(list(self.settings.providers))
        interrupted = await self._recover()
        await self.follower.skip()
        self.doorkeeper.replace_all(await self.store.clients.load())
        await self.keeper.load()
        for provider in self.pools:
            await self._count_backups(provider)
        return interrupted

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(DRAIN, self._drain)
        loop.add_signal_handler(END_NOW, self._end_now)
        loop.add_signal_handler(RELOAD, self._reload)
        self.background.spawn(_listen_when_serving())

    async def _recover(self) -> int:
        """Book what processes that died have left."""
        interrupted = 0
        for orphan in orphans(self.settings.journal_folder):
            interrupted += await recover(orphan, self.store.ledger)
        return interrupted

    async def stop(self) -> None:
        """End what still runs, write everything down, give everything back."""
        self.readiness.is_ready = False
        self.watch.end_all(Draining)
        await self.background.stop()
        await self.book.flush()
        self._journal.close()
        await self._transport.close()
        await self.store.close()
        self.logs.logger.info("stopped")
        self._sink.stop()

    def _drain(self) -> None:
        """No new exchanges; the running ones may finish."""
        if self.admission.is_draining:
            return
        self.readiness.is_ready = False
        self.admission.is_draining = True
        self.logs.logger.info("draining", running=self.admission.running)
        self.background.spawn(self._end_later())

    async def _end_later(self) -> None:
        await asyncio.sleep(self.settings.timeouts.drain_s)
        self._end_now()

    def _end_now(self) -> None:
        self.watch.end_all(Draining)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            await self.store.ledger.tidy()

    async def _mind_the_parent(self) -> None:
        """End when the supervisor is gone: nobody would restart or stop this process."""
        await parent_gone()
        self.logs.logger.error("the supervisor is gone; stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    async def _publish(self) -> None:
        """Share the figures with the other workers, if there are any."""
        while self.metrics.is_shared:
            with suppress(OSError):  # no space: the others go on with the figures they have
                await asyncio.to_thread(self.metrics.publish())
            await asyncio.sleep(PUBLISH_EVERY_S)

    def _reload(self) -> None:
        """Read the config again; on any error everything stays as it is."""
        try:
            settings = load(self._config)
        except BadConfig as error:
            self.logs.logger.error("config not reloaded", problems=error.problems)
            return
        self.background.spawn(self._swap(settings))

    async def _swap(self, settings: Settings) -> None:
        try:
            await self.store.prepare(list(settings.providers))
        except (StoreUnavailable, StoreUnusable) as error:
            self.logs.logger.error("config not reloaded", problems=[f"$.store: {error}"])
            return
        self.settings = settings
        for name in settings.providers:
            if name not in self.pools:
                self.pools[name] = self._pool(name)
                await self.keeper.load_pool(name)
        self._effects.regimen = regimen(settings)
        self._configure(settings)
        changed = needing_restart(self._started_with, settings)
        self.logs.logger.info("config reloaded", needs_restart=changed)

    # -- what happens elsewhere ----------------------------------------------------------------
    def _away(self, problem: str) -> None:
        if problem:
            self.logs.logger.warning("cannot read changes", problem=problem)
        else:
            self.logs.logger.warning("reads changes again")

    async def _take_over(self, rows: Sequence[AuditRow]) -> None:
        if any(row.action.startswith("client.") for row in rows):
            self.doorkeeper.replace_all(await self.store.clients.load())
        for provider in {row.provider for row in rows if row.action.startswith("backup.")}:
            await self._count_backups(provider)
        await self.keeper.follow(rows)

    async def _count_backups(self, provider: str) -> None:
        """How many backup keys are left, for the metrics."""
        if provider in self.pools:
            unused, used = await self.store.backups.count(provider)
            self._backups[provider, "unused"] = unused
            self._backups[provider, "used"] = used

    def _settled(self, rows: Sequence[ExchangeRow]) -> None:
        self.metrics.exchanges(rows)
        self.logs.exchanges(rows)

    # -- what is told --------------------------------------------------------------------------
    def _changed(self, change: Change) -> None:
        self.keeper.changed(change)
        after = change.condition.status
        self.metrics.transition(change.pool.name, change.before, after, change.reason)
        self.logs.logger.warning(
            "health",
            provider=change.pool.name,
            keys=[key.id for key in change.keys],
            model=change.model,
            before=change.before,
            after=after,
            reason=change.reason,
        )

    def _report(self, where: str, trace: str) -> None:
        self.logs.logger.error("defect", where=where, trace=trace)

    def _tell_of_store(self, text: str) -> None:
        self.logs.logger.warning("store", problem=text)

    def _alarm(self, text: str) -> None:
        self.logs.logger.warning("ledger", problem=text, depth=self.book.depth)

    def _gauges(self) -> Gauges:
        return Gauges(
            ready=self.readiness.is_ready,
            running=self.admission.running,
            leases=self._leasing.lent,
            tasks=len(asyncio.all_tasks()),
            outbox=self.book.depth,
            dropped_log_lines=self._sink.dropped,
            standing=self._standing,
        )

    def _standing(self) -> Standing:
        now = time.monotonic()
        keys: dict[tuple[str, ...], int] = {}
        key_up: dict[tuple[str, ...], int] = {}
        for name, pool in self.pools.items():
            census = Counter(key.gate.condition.status for key in pool.keys.values())
            keys |= {(name, status): census[status] for status in Status}
            if len(pool.keys) <= KEYS_NAMED_UP_TO:
                for key in pool.keys.values():
                    key_up[name, key.id] = int(key.gate.is_open(now) and not key.is_out)
        return Standing(
            keys=keys,
            backup_keys=self._backups,
            key_up=key_up,
            provider_up={(name,): int(pool.gate.is_open(now)) for name, pool in self.pools.items()},
        )


async def _listen_when_serving() -> None:
    """Let signals in once the server's own loop runs: what comes just before that would be lost."""
    await asyncio.sleep(_UNTIL_SERVING_S)
    listen_again()


class _Claims:
    """The store's claims, as the pools ask for them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        try:
            return await self._store.claims.claim(scope, owner, seconds)
        except (StoreUnavailable, StoreUnusable):
            return None


class _KeyStore:
    """The store as the keeper needs it; every secret that passes is learned by the redactor."""

    troubles: ClassVar[tuple[type[Exception], ...]] = (StoreUnavailable, StoreUnusable)

    def __init__(self, store: Store, actor: str, redactor: Redactor) -> None:
        self._store = store
        self._actor = actor
        self._redactor = redactor

    async def load_keys(self, provider: str) -> Sequence[KeyRecord]:
        records = await self._store.keys.load(provider)
        self._redactor.learn(record.secret for record in records)
        return records

    async def find_keys(self, provider: str, key_ids: Collection[str]) -> Sequence[KeyRecord]:
        records = await self._store.keys.find_some(provider, key_ids)
        self._redactor.learn(record.secret for record in records)
        return records

    async def provider_state(self, provider: str) -> ProviderState:
        return await self._store.provider_state(provider)

    async def promote(self, provider: str, dead_key: str, at: int) -> str | None:
        return await self._store.backups.promote(provider, dead_key, at=at, actor=self._actor)
