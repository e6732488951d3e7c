"""What operators see of a running process: ``logs``, ``metrics``, ``redaction``.

All of it listens; the request path calls none of it.
"""
