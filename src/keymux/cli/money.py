"""Micro-dollars as people read them."""

_MICROS = 1_000_000
_CENTS_MATTER = 10


def dollars(micros: int) -> str:
    """Micro-dollars in dollars, exact."""
    whole, rest = divmod(micros, _MICROS)
    return f"{whole}.{rest:06d}"


def brief_dollars(value: object) -> str:
    """Exact dollars, rounded to what matters."""
    amount = float(str(value))
    return f"{amount:.2f}" if amount >= _CENTS_MATTER else f"{amount:.4f}"
