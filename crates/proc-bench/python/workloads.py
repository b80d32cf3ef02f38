"""One workload under CPython: prints the seconds of each repetition, one a line.

Usage: workloads.py WORKLOAD METHOD REPETITIONS
"""

import multiprocessing
import os
import sys
import time


def nothing():
    pass


def increment(x):
    return x + 1


def start_join(context):
    process = context.Process(target=nothing)
    process.start()
    process.join()


def bare_fork(_):
    """The system's fork and wait, with nothing of multiprocessing around them."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def pool_of_two(context):
    with context.Pool(2) as pool:
        pool.map(increment, [1, 2])


def main():
    workload, method, repetitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
    context = multiprocessing.get_context(method)
    if workload in ("round_trip", "million_tasks"):
        with context.Pool(2) as pool:
            pool.map(increment, [1, 2])
            for _ in range(repetitions):
                begin = time.perf_counter()
                if workload == "round_trip":
                    pool.apply(increment, (1,))
                else:
                    pool.map(increment, range(1_000_000))
                print(time.perf_counter() - begin)
        return
    run = {"bare_fork": bare_fork, "start_join": start_join, "pool_of_two": pool_of_two}[workload]
    run(context)  # starts the fork server, fills caches
    for _ in range(repetitions):
        begin = time.perf_counter()
        run(context)
        print(time.perf_counter() - begin)


if __name__ == "__main__":
    main()
