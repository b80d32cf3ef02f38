"""The functions of tasks, in a module of their own, so that every library finds them by name."""

import time
from multiprocessing.shared_memory import SharedMemory

SHARED = 200_000_000
LARGE = 1 << 20
TABLE = 10_000

# The data of a worker. It makes them itself, or has copies of the parent's, if it was forked.
table = {}
array = None
memory = None


def nothing():
    pass


def increment(x):
    return x + 1


def spin(microseconds):
    end = time.perf_counter() + microseconds * 1e-6
    while time.perf_counter() < end:
        pass


def initialize():
    spin(50_000)


def fill():
    table.update((key, key * key) for key in range(TABLE))


def look_up(key):
    return table[key]


def give_back(value):
    return value


def wait(_):
    time.sleep(0.005)


def make(length):
    return b"\7" * length


def attach(name):
    global memory, array
    memory = SharedMemory(name)
    array = memory.buf


def read_pages(_):
    return bytes(array[:SHARED:4096]).count(1)


def skewed(tasks):
    return [10_000 if i % 100 == i // 100 * 37 % 100 else 100 for i in range(tasks)]
