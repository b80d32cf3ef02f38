"""Tasks that fail: two seconds each, and two retries."""

import os
import time
from multiprocessing import Pool, TimeoutError


# One raises, one crashes, and one takes too long.
def work(n):
    print(f"{n}: begins\n", end="", flush=True)
    if n == 2:
        raise ValueError("a bad number")
    if n == 3:
        os.abort()
    if n == 4:
        time.sleep(3600)
    return n * n


if __name__ == "__main__":
    fates = {}
    open_tasks = [1, 2, 3, 4]
    # A worker that hangs takes no other task.
    with Pool(4) as pool:
        for _ in range(3):
            tasks = {}
            for n in open_tasks:
                tasks[n] = pool.apply_async(work, (n,))
            deadline = time.monotonic() + 2
            open_tasks = []
            for n, task in tasks.items():
                left = max(0, deadline - time.monotonic())
                try:
                    fates[n] = task.get(left)
                except ValueError as error:
                    fates[n] = error
                    open_tasks.append(n)
                except TimeoutError:
                    fates[n] = "no result"
                    open_tasks.append(n)

        for n, fate in fates.items():
            print(f"{n}: {fate}", flush=True)
