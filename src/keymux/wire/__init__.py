"""The formats: bytes in, events and figures out, and the other way round. All of it pure.

``formats`` says what every wire format has to be able to tell; ``openai_chat`` and
``anthropic_messages`` are the two there are. ``sse`` cuts a stream at event boundaries, ``splice``
changes single values of a JSON body without touching any other byte, ``upstream_error`` reads
whatever shape of error a provider answers.
"""
