"""What choosing a key and giving it back costs, with few keys and with many.

A program of its own, so that nothing else lives in its memory. Prints one line of JSON: by the
state of the keys, nanoseconds among few and among many, and the latter divided by the former.
"""

import gc
import json
import sys
from statistics import median
from time import process_time_ns

from keymux.core.health import Condition, Status
from keymux.core.retrying import Step
from keymux.core.vocabulary import Target
from keymux.pools.budget import RetryBudget
from keymux.pools.pool import Pool

FEW, MANY = 10, 50_000
TURNS = 50_000
NOW, NEVER = 1000.0, 1e9
STEP = Step(Target("provider", "model"))


def pool_of(count: int, *, half_cools: bool) -> Pool:
    """A pool with so many keys, each its own quota group, every second one cooling if asked."""
    pool = Pool("provider", RetryBudget(percent=20, floor=30))
    for number in range(count):
        pool.add(f"key_{number:012}", f"sk-{number:040}")
    if half_cools:
        for key in list(pool.keys.values())[::2]:
            key.gate.change(Condition(status=Status.RATE_LIMITED, until=NEVER, generation=1))
            pool.wake_later(key.gate, key)
    return pool


def spent_ns(pool: Pool) -> float:
    """The CPU time of one choice, the mean of many."""
    begin = process_time_ns()
    for _ in range(TURNS):
        lease = pool.take(STEP, NOW)
        if lease is None:
            raise RuntimeError("half of the keys are ready, and yet none was given")
        pool.give_back(lease)
    return (process_time_ns() - begin) / TURNS


def compared(rounds: int, *, half_cools: bool) -> dict[str, float]:
    """Both pools timed in turn; the first time, which fills the lanes, does not count."""
    few, many = (pool_of(count, half_cools=half_cools) for count in (FEW, MANY))
    gc.collect()
    gc.freeze()
    spent_ns(few), spent_ns(many)
    pairs = [(spent_ns(few), spent_ns(many)) for _ in range(rounds)]
    return {
        "few": median(one for one, _ in pairs),
        "many": median(other for _, other in pairs),
        "growth": median(other / one for one, other in pairs),
    }


def main(rounds: int) -> None:
    """Time pools of healthy keys, then pools in which every second key cools."""
    states = {"all healthy": False, "half cooling": True}
    found = {name: compared(rounds, half_cools=cools) for name, cools in states.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
