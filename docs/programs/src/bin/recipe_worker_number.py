"""A number for each worker, here for a port of its own."""

import time
from multiprocessing import Pool, SimpleQueue


# The initializer has set the number of the worker. It is
# a global.
def port(_):
    time.sleep(0.01)
    return 8000 + number


def begin(numbers):
    global number
    number = numbers.get()


if __name__ == "__main__":
    # Each worker takes a number when it begins.
    numbers = SimpleQueue()
    for i in range(2):
        numbers.put(i)
    ports = set()
    with Pool(2, begin, (numbers,)) as pool:
        # Until each worker has had a task.
        while len(ports) < 2:
            ports.update(pool.map(port, range(10)))
    print(sorted(ports))
