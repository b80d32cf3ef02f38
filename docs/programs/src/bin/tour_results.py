"""Results that come later, and one that does not."""

import time
from multiprocessing import Pool, TimeoutError


# Returns at once.
def length(word):
    return len(word)


def nap(seconds):
    time.sleep(seconds)


if __name__ == "__main__":
    # The end of the block also ends the nap.
    with Pool(4) as pool:
        tasks = []
        for word in ["one", "two", "three"]:
            task = pool.apply_async(length, (word,))
            tasks.append(task)
        for task in tasks:
            print(task.get())

        task = pool.apply_async(nap, (3600,))
        try:
            task.get(timeout=0.1)
        except TimeoutError:
            print("no result yet")
