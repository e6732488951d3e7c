"""The rules: pure functions and the nouns they speak of. No I/O, no clock, no logging.

Read ``vocabulary`` first, then ``faults`` (what can go wrong and whose fault it is),
``retrying`` (where the next attempt goes), ``health`` (the states of a key), ``routing`` and
``pricing``.
"""
