"""A pool of workers: built, used, closed and joined."""

import os
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool

# A global: each process has its own.
# The one of the parent stays 1.
exponent = 1


# The initializer: each worker calls it once, first.
def set_exponent(value, verbose):
    global exponent
    exponent = value
    pid = os.getpid()
    line = f"worker with pid {pid} is ready\n"
    if verbose:
        # One write, so the line stays whole.
        sys.stderr.write(line)


# The task: called once for each number.
def power(number):
    return number**exponent


@dataclass
class Settings:
    processes: int
    exponent: int
    verbose: bool
    max_tasks_per_child: int
    start_method: str
    numbers: list


def run(settings):
    initargs = (settings.exponent, settings.verbose)

    # Build: the workers start, and wait for tasks.
    pool = Pool(
        # How many workers. Without it: one for each CPU.
        processes=settings.processes,
        # What each worker calls first, and with what.
        initializer=set_exponent,
        initargs=initargs,
        # After so many tasks, a new worker takes over.
        maxtasksperchild=settings.max_tasks_per_child,
        # How workers are made.
        context=get_context(settings.start_method),
    )

    # Use: results come in the order of the numbers.
    powers = pool.map(power, settings.numbers)

    # Close: the pool takes no more tasks.
    pool.close()

    # Join: wait until all workers have ended.
    pool.join()

    print(powers)


if __name__ == "__main__":
    # A worker imports this file, too. There, this block
    # does not run.
    settings = Settings(
        processes=5,
        exponent=2,
        verbose=False,
        max_tasks_per_child=100,
        start_method="forkserver",
        numbers=[3, 4, 5, 6, 6, 7, 87, 8, 8],
    )
    run(settings)
