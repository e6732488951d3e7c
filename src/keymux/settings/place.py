"""Addresses of stores: which kind, whether they can be used, and how people may see them."""

import re

SQLITE = "sqlite:///"
_SERVERS = ("mongodb://", "mongodb+srv://")
_DEFAULT_DATABASE = "keymux"
_DATABASE = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")
_HOSTS = re.compile(r"[A-Za-z0-9.:_,\[\]%-]+\Z")


def check_file(store: str) -> None:
    """Refuse what is no file of the embedded store.

    Raises:
        ValueError: says what is wrong.
    """
    name = store.removeprefix(SQLITE)
    if name == store or name.endswith(("/", "/.", "/..")) or name in {"", ".", ".."}:
        raise ValueError(
            "use sqlite:/// and a file name, such as sqlite:///keymux.db, or mongodb://host/name"
        )
    if not name.isprintable() or name.startswith((":", "file:")) or "?" in name:
        raise ValueError("the store is a file: no :memory:, no parameters, no odd letters")


def is_server(store: str) -> bool:
    """Whether the store is a server, which several processes and hosts share."""
    return store.startswith(_SERVERS)


def check_server(store: str) -> None:
    """Refuse what cannot be the address of a server; nothing of it is repeated, it has a password.

    Raises:
        ValueError: says what is wrong.
    """
    if not (store.isascii() and store.isprintable()):
        raise ValueError("write odd letters as %XX")
    credentials, hosts, name = _parts(store)
    if any(odd in credentials for odd in "/@?"):
        raise ValueError("write / @ : ? in the user and in the password as %2F %40 %3A %3F")
    if not _HOSTS.match(hosts):
        raise ValueError("name a host, as in mongodb://host/keymux")
    if name and not _DATABASE.match(name):
        raise ValueError("a database is named by letters, digits, _ and -, at most 63")


def database_name(store: str) -> str:
    """The name of the database on the server."""
    return _parts(store)[2] or _DEFAULT_DATABASE


def shown(store: str) -> str:
    """The address without user, password and options."""
    if not is_server(store):
        return store
    return f"{store.partition('://')[0]}://{_parts(store)[1]}/{database_name(store)}"


def _parts(store: str) -> tuple[str, str, str]:
    """Credentials, hosts, and the name of the database; a stray @ belongs to the credentials."""
    rest = store.partition("://")[2]
    credentials, _, place = rest.rpartition("@")
    hosts, _, name = place.partition("?")[0].partition("/")
    return credentials, hosts, name
