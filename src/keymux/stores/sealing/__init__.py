"""Secrets at rest: how they are sealed, with which keys, and what proves that the keys fit.

Read ``ring`` (the keys), ``ring_file`` (where they live), ``vault`` (sealing and opening), ``port``
(what a store can do), ``unlocking`` (what is checked before a store is used), ``resealing`` (all
secrets of a store anew).
"""
