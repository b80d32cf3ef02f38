"""A task that fails, among others that do not."""

import math
from multiprocessing import Pool


def root(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return math.isqrt(x)


if __name__ == "__main__":
    # The worker goes on after an exception.
    with Pool(2) as pool:
        # One error instead of all results.
        try:
            print(pool.map(root, [4, -1, 9]))
        except ValueError as error:
            print("map:", error)

        # A result or an error for each input.
        tasks = []
        for x in [4, -1, 9]:
            tasks.append(pool.apply_async(root, (x,)))
        for task in tasks:
            try:
                print("root:", task.get())
            except ValueError as error:
                print("error:", error)
