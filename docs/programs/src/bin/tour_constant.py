"""A constant for all tasks, and progress on stderr."""

import sys
from functools import partial
from multiprocessing import Pool


def scale(k, x):
    return k * x


if __name__ == "__main__":
    numbers = [1, 2, 3, 4]
    with Pool(4) as pool:
        # The constant goes with each number.
        tenfold = partial(scale, 10)

        results = []
        for result in pool.imap(tenfold, numbers):
            results.append(result)
            progress = f"{len(results)} of {len(numbers)}"
            print(progress, file=sys.stderr)

        print(results)
