"""Why processes? Counting primes alone and in a pool, and a pool that loses a worker."""

import os
import signal
import time
from multiprocessing import Pool, TimeoutError

LIMIT = 60_000
TASKS, VICTIM = 8, 3


def count(part):
    return sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in part)


def serially(parts):
    return sum(map(count, parts))


def in_pool(pool, parts):
    return sum(pool.map(count, parts))


def task(number):
    if number == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def survive(pool):
    try:
        results = pool.map_async(task, range(TASKS)).get(timeout=1)
        print(f"{'pool of 2':<20}{len(results)} results: {results}")
    except TimeoutError:
        # `map` has no timeout, and would wait for ever.
        print(f"{'pool of 2':<20}no results and no error after a second")


def timed(run, *arguments):
    start = time.perf_counter()
    result = run(*arguments)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    parts = [range(start, min(start + 500, LIMIT)) for start in range(0, LIMIT, 500)]

    print(f"PARALLEL EXECUTION, SCALABILITY: the primes below {LIMIT}")
    print(f"{'':<20}{'time':>14}{'speed-up':>12}{'efficiency':>12}{'primes':>12}")
    alone, expected = timed(serially, parts)
    with Pool(2) as pool:
        shared, primes = timed(in_pool, pool, parts)
    assert primes == expected
    for who, seconds, workers in [("no pool", alone, 1), ("pool of 2", shared, 2)]:
        ratio = alone / seconds
        print(
            f"{who:<20}{seconds * 1e3:>11.1f} ms{ratio:>10.1f} x"
            f"{100 * ratio / workers:>10.0f} %{primes:>12}"
        )

    print(f"\nRESILIENCE: {TASKS} tasks, number {VICTIM} kills the process that it is in")
    with Pool(2) as pool:
        survive(pool)
