"""A pool that takes no more than two tasks at a time."""

import time
from concurrent.futures import ProcessPoolExecutor
from threading import BoundedSemaphore

room = BoundedSemaphore(2)


def work(seconds):
    time.sleep(seconds)


def try_submit(pool, seconds):
    if not room.acquire(blocking=False):
        return None
    task = pool.submit(work, seconds)
    task.add_done_callback(lambda _: room.release())
    return task


if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        tasks = []
        for i in range(3):
            task = try_submit(pool, 1)
            word = "accepted" if task else "refused"
            print(f"{i}: {word}")
            tasks.append(task)
        # A task that runs cannot be cancelled: wait.
        for task in tasks:
            if task and not task.cancel():
                task.result()
        task = try_submit(pool, 0)
        word = "accepted" if task else "refused"
        print(f"later: {word}")
