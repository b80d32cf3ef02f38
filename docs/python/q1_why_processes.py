"""Why processes? Primes counted alone and in pools, and pools that lose a worker."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from math import isqrt
from multiprocessing import Pool, Process, SimpleQueue, TimeoutError
from time import perf_counter

LIMIT = 200_000
TASKS = 8
VICTIM = 3
PATIENCE = 2  # seconds; the other tasks need a fraction of it


def is_prime(n):
    divisors = range(2, isqrt(n) + 1)
    return n >= 2 and all(n % d for d in divisors)


def count(numbers):
    return sum(is_prime(n) for n in numbers)


# More parts than workers, since later parts take longer.
def parts(limit):
    step = max(limit // 200, 1)
    starts = range(0, limit, step)
    return [range(n, min(n + step, limit)) for n in starts]


def serially(limit):
    start = perf_counter()
    primes = sum(map(count, parts(limit)))
    return perf_counter() - start, primes


# The start of the pool is not counted.
def in_pool(limit, workers):
    # A program has one pool for many maps, so only the
    # map is measured. The end of `with` ends the pool.
    # In Rust, the end of the function does.
    with Pool(workers) as pool:
        start = perf_counter()
        primes = sum(pool.map(count, parts(limit)))
        return perf_counter() - start, primes


def task(number):
    if number == VICTIM:
        # No process can catch this signal. The kernel
        # sends it when memory runs out.
        os.kill(os.getpid(), signal.SIGKILL)

    return number * number


def all_tasks(answer):
    answer.put([task(number) for number in range(TASKS)])


# All tasks one after the other, as without a pool.
def in_one_process():
    answer = SimpleQueue()
    alone = Process(target=all_tasks, args=(answer,))
    alone.start()
    alone.join()
    if alone.exitcode == 0:
        return answer.get(), "no error"
    return [], f"the exit code is {alone.exitcode}"


# Several tasks, of which one may kill its worker.
def at_once(pool, tasks):
    result = pool.map_async(task, tasks)
    try:
        return result.get(PATIENCE), "no error"
    except TimeoutError:
        # `map` has no time-out: it would still wait.
        return [], "neither results nor an error"


# The same, with a result for each task.
def one_by_one(pool, tasks):
    results = [pool.apply_async(task, (number,)) for number in tasks]
    fates = []
    for result in results:
        try:
            fates.append(result.get(PATIENCE))
        except TimeoutError:
            fates.append("-")
    return fates


# The same, with the other pool of Python.
def in_executor(executor, tasks):
    try:
        return list(executor.map(task, tasks)), "no error"
    except BrokenProcessPool as error:
        return [], type(error).__name__


def line(who, run, workers, alone):
    seconds, primes = run
    ratio = alone / seconds
    print(
        f"{who:<20}{seconds * 1e3:>11.1f} ms{ratio:>10.1f} x"
        f"{100 * ratio / workers:>10.0f} %{primes:>12}"
    )


def parallel_execution():
    print(f"PARALLEL EXECUTION, SCALABILITY: the primes below {LIMIT}")
    print(f"{'':<20}{'time':>14}{'speed-up':>12}{'efficiency':>12}{'primes':>12}")
    serial = serially(LIMIT)
    line("no pool", serial, 1, serial[0])
    for workers in [1, 2]:
        line(f"pool of {workers}", in_pool(LIMIT, workers), workers, serial[0])


def show(who, results, error="no error"):
    arrived = sum(result != "-" for result in results)
    print(f"{who:<20}{arrived} results: {' '.join(map(str, results)) or '-'}")
    if error != "no error":
        print(f"{'':<20}{error}")


def resilience():
    print(f"\nRESILIENCE: {TASKS} tasks, number {VICTIM} kills the process that it is in")
    show("one process", *in_one_process())
    with Pool(2) as pool:
        show("pool of 2", *at_once(pool, range(TASKS)))
        show("  task by task", one_by_one(pool, range(TASKS)))
        show("same pool, later", *at_once(pool, range(TASKS, 2 * TASKS)))
    with ProcessPoolExecutor(2) as executor:
        show("executor of 2", *in_executor(executor, range(TASKS)))
        show("executor, later", *in_executor(executor, range(TASKS, 2 * TASKS)))


if __name__ == "__main__":
    parallel_execution()
    resilience()
