"""What is remembered.

``port`` says what any store can do, ``states`` how stored health changes in every store, and
``sqlite`` is the embedded one. ``journal`` keeps what happened
safe until a store has it, and ``bookkeeping`` carries it from there to the store in batches.
"""
