"""Async code that waits for tasks of a pool.

asyncio turns each task of the pool into a future.
So the code needs no thread that waits for a task.
"""

import asyncio
from concurrent.futures import ProcessPoolExecutor


def square(x):
    return x * x


async def work(pool):
    loop = asyncio.get_running_loop()
    first = loop.run_in_executor(pool, square, 3)
    second = loop.run_in_executor(pool, square, 4)
    return await first + await second


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(asyncio.run(work(pool)))
