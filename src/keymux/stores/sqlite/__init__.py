"""The embedded store: one file, one connection, one thread.

``database`` owns the connection and the schema, ``store`` is the store as the port wants it, and
there is one module for each kind of record: ``keys``, ``backups``, ``clients``, ``ledger``,
``audit``.
"""

from keymux.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
