"""The shared store: a MongoDB database that any number of keymux processes use at once.

``database`` owns the client and the transactions, ``troubles`` tells its errors in our words,
``schema`` makes what is missing, ``documents`` maps documents to records and back, ``store`` is the
store as the port wants it, and there is one module for each kind of record: ``keys``, ``backups``
with ``promotion``, ``clients``, ``ledger`` with ``booking``, ``counters``, ``transitions`` and
``usage``, ``audit``, ``claims``.
"""

from keymux.stores.mongo.store import MongoStore

__all__ = ["MongoStore"]
