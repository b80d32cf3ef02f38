"""A pool of worker processes from its creation to join, with every argument of its constructor."""

from multiprocessing import get_context
from multiprocessing.pool import Pool

# A global, so each process has its own. In the parent it stays 1 for ever.
exponent = 1


def set_exponent(value):
    """The initializer: each worker calls it once, before its first task."""
    global exponent
    exponent = value


def power(number):
    """The task: called once for each number, in whichever worker is free."""
    return number**exponent


if __name__ == "__main__":
    numbers = [3, 4, 5, 6, 6, 7, 87, 8, 8]

    # Create: the workers start now, and wait for tasks. Every argument is optional.
    pool = Pool(
        # How many workers; otherwise one for each CPU.
        processes=5,
        # What each worker calls first, and with what.
        initializer=set_exponent,
        initargs=(2,),
        # After so many tasks a fresh worker takes over; otherwise they live as long as the pool.
        maxtasksperchild=100,
        # Where the memory of a new worker comes from; otherwise the system's default.
        context=get_context("spawn"),
    )

    # Use, as often as you like: results come in the order of the numbers, whoever was faster.
    powers = pool.map(power, numbers)

    # Close: no more tasks are taken, so a worker without one can go home.
    pool.close()

    # Join: wait until the last worker has ended.
    pool.join()

    print(powers)
