"""The composition root: settings in, application out; the only file that knows every part."""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from keymux.background import Background
from keymux.checking import Checker
from keymux.configured import check_plan, egress_backoff, needing_restart, regimen, services, terms
from keymux.core.faults import Draining
from keymux.core.health import Status
from keymux.core.records import AuditRow, ExchangeRow
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
from keymux.pools.egress import Exit
from keymux.pools.egress_keeping import EgressKeeper
from keymux.pools.exit_health import Check, ExitChange, ExitHealth
from keymux.pools.keeping import Keeper
from keymux.pools.leasing import Leasing
from keymux.pools.permits import Permits
from keymux.pools.persistence import Clocks
from keymux.pools.pool import Pool
from keymux.settings import BadConfig, Settings, load
from keymux.store_views import ClaimsView, EgressView, KeyView
from keymux.stores.bookkeeping import Bookkeeper, recover
from keymux.stores.journal import Journal, orphans
from keymux.stores.opening import open_store
from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.telemetry.logs import LineSink, Logs
from keymux.telemetry.metrics import KEYS_NAMED_UP_TO, Gauges, Metrics, Standing
from keymux.telemetry.redaction import Redactor, redact_body
from keymux.telemetry.siblings import PUBLISH_EVERY_S, Siblings
from keymux.tuning import parent_gone, prefer_throughput, settle_memory
from keymux.upstream.asking import Upstreams
from keymux.upstream.transport import Transport

_UNTIL_SERVING_S = 0.1
TIDY_EVERY_S = 1.0
_RESYNC_EVERY_S = 60.0
_CLOSE_EVERY_S = 5.0


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
        self._transport = Transport(settings.timeouts.connect_s, settings.egress.connect_s)
        self._upstreams = Upstreams(self._transport, redact_body, time.time)
        self.pools: dict[str, Pool] = {name: self._pool(name) for name in settings.providers}
        self._exits = ExitHealth(
            egress_backoff(settings),
            time.monotonic,
            self._luck,
            self._exit_changed,
            look=self._look,
            failure=lambda pool, way: self.metrics.egress_failed(way.name, pool.name),
        )
        self._effects = Effects(
            regimen(settings), time.monotonic, self._luck, self._changed, self._exits
        )
        self.egress = EgressKeeper(
            self.pools,
            EgressView(self.store, self.actor, self._redactor),
            self._clocks,
            self.actor,
            self.background.spawn,
        )
        self.checker = Checker(
            self.pools,
            check_plan(settings),
            self._checked,
            claims=ClaimsView(self.store),
            owner=self.actor,
            clock=time.monotonic,
            luck=self._luck,
            spawn=self.background.spawn,
        )
        self.keeper = Keeper(
            self.pools,
            KeyView(self.store, self.actor, self._redactor),
            self.egress.refresh,
            self.book.note,
            clocks=self._clocks,
            actor=self.actor,
            spawn=self.background.spawn,
        )
        self._configure(settings)
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
        for name, provider in settings.providers.items():
            self.pools[name].ways.configure(
                required=provider.egress == "required", is_plain=provider.is_plain
            )
        self._effects.regimen = regimen(settings)
        self._exits.backoff = egress_backoff(settings)
        self.checker.plan = check_plan(settings)
        self._terms = terms(settings, found)

    def _pool(self, name: str) -> Pool:
        retry = self.settings.retry
        budget = RetryBudget(percent=retry.budget_percent, floor=retry.budget_floor)
        return Pool(name, budget, self._permits())

    def _permits(self) -> Permits:
        return Permits(
            ClaimsView(self.store), self.actor, time.monotonic, self._luck, self.background.spawn
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
            self.checker.run(),
            self._resync(),
            self._close_idle(),
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
        for provider in self.pools:
            await self._load_pool(provider)
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

    async def _load_pool(self, name: str) -> None:
        """The ways out come first: no key may be in the pool before its bindings are known."""
        repaired = await self.store.bindings.repair(name, self.actor)
        if repaired.repaired or repaired.deleted or repaired.without_proxy:
            self.logs.logger.warning(
                "bindings repaired",
                provider=name,
                checked=repaired.checked,
                repaired=repaired.repaired,
                deleted=repaired.deleted,
                without_proxy=repaired.without_proxy,
            )
        await self.egress.load_pool(name)
        await self.keeper.load_pool(name)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(_RESYNC_EVERY_S)
            with suppress(StoreUnavailable, StoreUnusable):
                await self.egress.resync()

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(min(_CLOSE_EVERY_S, self.settings.egress.idle_s))
            await self._transport.close_idle(self.settings.egress.idle_s)

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
                await self._load_pool(name)
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
        await self.egress.follow(rows)
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

    def _exit_changed(self, change: ExitChange) -> None:
        self.egress.changed(change)
        after = change.exit.gate.condition.status
        if after is not change.before:
            self.logs.logger.warning(
                "egress",
                proxy=change.exit.name,
                provider=change.pool.name,
                before=change.before,
                after=after,
                reason=change.reason,
            )

    def _look(self, pool: Pool, way: Exit) -> None:
        self.checker.look(pool, way)

    def _checked(self, pool: Pool, way: Exit, found: Check) -> None:
        before = way.gate.condition
        doubt = self._exits.checked(pool, way, found)
        if way.gate.condition is before:
            self.egress.checked(pool, way, found)
        if doubt is not None:
            self._effects.charge_provider(pool, *doubt, time.monotonic())

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
                    is_up = key.gate.is_open(now) and key.exits.is_open and not key.is_out
                    key_up[name, key.id] = int(is_up)
        return Standing(
            keys=keys,
            backup_keys=self._backups,
            key_up=key_up,
            provider_up={(name,): int(pool.gate.is_open(now)) for name, pool in self.pools.items()},
            proxies={
                (way.name, name): (int(way.is_open), way.latency_s)
                for name, pool in self.pools.items()
                for way in pool.ways.by_proxy.values()
                if way.keys
            },
        )


async def _listen_when_serving() -> None:
    """Let signals in once the server's own loop runs: what comes just before that would be lost."""
    await asyncio.sleep(_UNTIL_SERVING_S)
    listen_again()
