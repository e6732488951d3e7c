"""Which egress proxies keys get that have none yet, so that each proxy carries its share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush

from msgspec import Struct

_Rank = tuple[int, ...]


class Load(Struct, frozen=True):
    """What a proxy carries.

    Attributes:
        first: keys that leave through it as long as it is well.
        all: these, and the keys that have it to spare.
    """

    first: int = 0
    all: int = 0


class TooFewProxies(ValueError):  # noqa: N818 -- names the state, as the faults do
    """There are fewer proxies than each key is to have."""


def spread(
    keys: Sequence[str], loads: Mapping[str, Load], per_key: int = 1
) -> dict[str, tuple[str, ...]]:
    """The proxies that each key gets, distinct, the first of them for all its traffic.

    A key takes those that carry least at its turn, so no proxy that gained a key carries more than
    one above any other. The same arguments give the same answer.

    Args:
        keys: in the order of their turns.
        loads: by proxy, what each carries now; of equals the first one is taken.
        per_key: how many each key gets.

    Raises:
        TooFewProxies: there are fewer proxies than that.
    """
    if keys and len(loads) < per_key:
        raise TooFewProxies(f"{per_key} proxies for each key, and there are only {len(loads)}")
    scales = _Scales(loads)
    return {key: scales.take(per_key) for key in keys}


class _Scales:
    """The loads while they change, with the lightest at hand."""

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self._names = list(loads)
        self._first = [load.first for load in loads.values()]
        self._all = [load.all for load in loads.values()]
        places = range(len(self._names))
        self._by_first = _Lightest(places, lambda at: (self._first[at], self._all[at], at))
        self._by_all = _Lightest(places, lambda at: (self._all[at], at))

    def take(self, amount: int) -> tuple[str, ...]:
        """The lightest ones, each with one key more from now on."""
        chosen = [self._by_first.besides(())]
        while len(chosen) < amount:
            chosen.append(self._by_all.besides(chosen))
        self._first[chosen[0]] += 1
        for place in chosen:
            self._all[place] += 1
            self._by_first.note(place)
            self._by_all.note(place)
        return tuple(self._names[place] for place in chosen)


class _Lightest:
    """Finds the place of the lowest rank; a rank that has changed since it was noted is skipped."""

    def __init__(self, places: Sequence[int], rank: Callable[[int], _Rank]) -> None:
        self._rank = rank
        self._heap = [rank(place) for place in places]
        heapify(self._heap)

    def note(self, place: int) -> None:
        """The rank of a place has changed."""
        heappush(self._heap, self._rank(place))

    def besides(self, taken: Collection[int]) -> int:
        """The place of the lowest rank that is not taken."""
        passed: list[_Rank] = []
        while True:
            rank = heappop(self._heap)
            place = rank[-1]
            if rank != self._rank(place):
                continue
            passed.append(rank)
            if place not in taken:
                break
        for rank in passed:
            heappush(self._heap, rank)
        return place
