"""The first failure ends the call, and the pool goes on."""

import time
from concurrent import futures


# Only one of the inputs is wrong.
def check(x):
    time.sleep(0.01)
    if x == 3:
        raise ValueError(f"{x} is wrong")
    return x


if __name__ == "__main__":
    with futures.ProcessPoolExecutor(2) as pool:
        inputs = range(10_000)
        tasks = [pool.submit(check, x) for x in inputs]
        first = futures.FIRST_EXCEPTION
        done, rest = futures.wait(tasks, return_when=first)
        for task in rest:
            task.cancel()
        for task in done:
            if task.exception():
                print("stopped:", task.exception())
        print("later:", pool.submit(check, 4).result())
