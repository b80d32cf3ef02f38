"""Threads and processes: a global changed by each, computing and waiting shared by each."""

import time
from multiprocessing import Pool, Process
from multiprocessing.pool import ThreadPool
from threading import Thread

counter = 0


def add(n):
    global counter
    counter += n


def seen_after(kind):
    global counter
    counter = 0
    other = kind(target=add, args=(1000,))
    other.start()
    other.join()
    return counter


def collatz(start):
    n, length = start, 0
    while n > 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        length += 1
    return length


def wait(milliseconds):
    time.sleep(milliseconds / 1000)
    return milliseconds


def timed(run):
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def row(what, thread, process):
    print(f"{what:<40}{thread:>14}{process:>14}")


def compare(what, work, inputs):
    alone, expected = timed(lambda: sum(map(work, inputs)))
    with ThreadPool(2) as threads, Pool(2) as processes:
        by_threads, one = timed(lambda: sum(threads.map(work, inputs)))
        by_processes, two = timed(lambda: sum(processes.map(work, inputs)))
    assert one == two == expected
    row(f"{what}: one alone needs", *[f"{alone * 1e3:.1f} ms"] * 2)
    row("  shared, it takes", f"{by_threads * 1e3:.1f} ms", f"{by_processes * 1e3:.1f} ms")
    row("  speed-up", f"{alone / by_threads:.1f} x", f"{alone / by_processes:.1f} x")


if __name__ == "__main__":
    row("MEMORY", "thread", "process")
    row("it is now, here", seen_after(Thread), seen_after(Process))
    print()
    row("WORK SHARED BY 2", "threads", "processes")
    compare("computing", collatz, range(1, 10000))
    compare("waiting", wait, [10] * 20)
