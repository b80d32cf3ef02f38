"""A table that all tasks read and that no task copies."""

from multiprocessing import Array, Pool

table = None

# The initializer gives the table to each worker.


def keep(shared):
    global table
    table = shared


def total(part):
    first, end = part
    return sum(table[i] for i in range(first, end))


def run():
    numbers = (i * 0.5 for i in range(1000))
    shared = Array("d", list(numbers), lock=False)
    with Pool(2, keep, initargs=(shared,)) as pool:
        parts = [(0, 500), (500, 1000)]
        print(pool.map(total, parts))


if __name__ == "__main__":
    run()
