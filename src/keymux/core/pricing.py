"""What an exchange costs: usage and price in, whole micro-dollars out."""

from keymux.core.vocabulary import Price, Usage


def cost_micros(usage: Usage, price: Price | None) -> int | None:
    """The cost of some usage in micro-dollars (millionths of a US dollar).

    Returns:
        None when there is no price, because unknown is not free. A price per million tokens in
        dollars is the same figure as a price per token in micro-dollars, so nothing is scaled.
    """
    if price is None:
        return None
    return round(
        usage.input * price.input
        + usage.output * price.output
        + usage.cache_read * price.cache_read
        + usage.cache_write_5m * price.cache_write_5m
        + usage.cache_write_1h * price.cache_write_1h
    )
