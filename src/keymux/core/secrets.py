"""What may be known of a secret: its hash, and a little of its ends."""

from hashlib import sha256

_HEAD, _TAIL = 3, 4
_LONG_ENOUGH = 12


def hash_of(secret: str) -> str:
    """The hexadecimal SHA-256 of a secret.

    A fast hash is right for what nobody can guess: client keys carry 40 random characters, and
    upstream keys are made by their providers.
    """
    return sha256(secret.encode()).hexdigest()


def shown(secret: str) -> str:
    """A secret as people may see it: the first 3 and the last 4 characters."""
    if len(secret) < _LONG_ENOUGH:
        return "***"
    return f"{secret[:_HEAD]}...{secret[-_TAIL:]}"
