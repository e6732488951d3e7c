"""The endpoints: what clients and monitors connect to.

``front`` is the ASGI application with its table of paths, ``arrival`` reads a request,
``answering`` writes to the client, ``models`` and ``operations`` serve what needs no upstream,
``server`` runs all of it.
"""
