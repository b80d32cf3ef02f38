"""A dictionary that all tasks change."""

from functools import partial
from multiprocessing import Manager, Pool


# It reads and then writes. Without the lock, what another
# task writes in between is lost.
def count(counts, lock, letter):
    with lock:
        counts[letter] = counts.get(letter, 0) + 1


if __name__ == "__main__":
    with Manager() as manager, Pool(3) as pool:
        counts, lock = manager.dict(), manager.Lock()
        task = partial(count, counts, lock)
        pool.map(task, "sees")
        print(dict(sorted(counts.items())))
