"""Where a command works: the config, and the store that it names."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from keymux.cli.arguments import mention
from keymux.cli.saying import MISUSED, fail, note
from keymux.settings import BadConfig, Settings, load
from keymux.stores import opening
from keymux.stores.opening import SealedStore
from keymux.stores.port import NoSuchRecord, StoreUnavailable, StoreUnusable

T = TypeVar("T")


class Place:
    """The config, checked, and the way to its store.

    Args:
        config: the config file; the program ends here if it is bad.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.settings = read_config(config)
        self.actor = f"cli:{_login()}"

    def provider(self, name: str) -> str:
        """The name of a provider that exists; the program ends here if it does not."""
        if name not in self.settings.providers:
            known = ", ".join(self.settings.providers)
            fail(f"no provider is called {mention(name)}; the config has {known}", code=MISUSED)
        return name

    def prepare(self) -> list[str]:
        """Create what the store lacks; says what was done."""
        return self._guarded(_prepared(self.settings))

    def use(self, work: Callable[[SealedStore], Awaitable[T]], *, create: bool = False) -> T:
        """Do some work on the store, open and up to date.

        Args:
            work: what to do.
            create: make the database and its key ring if there are none; otherwise the program
                ends here if there is no database.
        """
        path = self.settings.database
        if path is not None and not path.exists():
            if not create:
                fail(
                    f"there is no database at {path.absolute()}: make it with `keymux init-db`,",
                    "or go where the gateway runs: a relative path in the config counts from there",
                )
            note(f"making the database {path.absolute()}")
        return self._guarded(self._use(work, create=create))

    def _guarded(self, doing: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run(doing)
        except StoreUnavailable as error:
            fail(
                f"the store cannot be used now: {error}",
                "look at its server or disk, then try again",
            )
        except StoreUnusable as error:
            fail(f"the store cannot be used: {error}", "see $.store in the config")
        except NoSuchRecord as error:
            fail(f"{error} is gone: somebody else removed it just now; look again")

    async def _use(self, work: Callable[[SealedStore], Awaitable[T]], *, create: bool) -> T:
        store = open_store(self.settings, may_make_ring=create)
        try:
            await store.prepare(list(self.settings.providers))
            return await work(store)
        finally:
            await store.close()


async def _prepared(settings: Settings) -> list[str]:
    store = open_store(settings)
    try:
        return await store.prepare(list(settings.providers))
    finally:
        await store.close()


def read_config(path: Path) -> Settings:
    """The settings; the program ends here if they are bad."""
    try:
        return load(path)
    except BadConfig as error:
        fail(*error.problems, f"mend {path}, or name another config with --config")


def open_store(settings: Settings, *, may_make_ring: bool = True) -> SealedStore:
    """The store that the config names; nothing is opened yet."""
    return opening.open_store(settings, note, may_make_ring=may_make_ring)


def _login() -> str:
    """The operator's name, from the system and not from the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
