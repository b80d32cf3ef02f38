"""A counter that all tasks share."""

from multiprocessing import Pool, Value


# `+=` reads and writes, so it needs the lock.
def work(x):
    if x % 7 == 0:
        with counter.get_lock():
            counter.value += 1


def prepare(shared_counter):
    global counter
    counter = shared_counter


if __name__ == "__main__":
    counter = Value("q", 0)
    with Pool(3, prepare, (counter,)) as pool:
        pool.map(work, range(1000))
    print(counter.value, "of 1000")
