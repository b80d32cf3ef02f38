"""A small call that does not wait for a large one."""

import time
from multiprocessing import Pool


# A task of both calls.
def work(x):
    time.sleep(0.1)
    return x + 1


if __name__ == "__main__":
    # One pool runs its tasks in the order of the calls.
    # So the small call has a pool of its own.
    with Pool(1) as other_pool, Pool(1) as pool:
        report = other_pool.map_async(work, range(1_000))
        print("small call:", pool.apply(work, (41,)))
        done = "done" if report.ready() else "not done"
        print("large call:", done)
