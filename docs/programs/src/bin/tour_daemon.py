"""A process that ends with the program."""

import time
from multiprocessing import Process, SimpleQueue


# It has no end of its own, and nobody joins it: the end of
# the program ends it.
def tick(ready):
    print("the daemon ticks", flush=True)
    ready.put(None)
    # Until the program ends.
    while True:
        time.sleep(1)


if __name__ == "__main__":
    # The program waits for the first tick.
    ready = SimpleQueue()
    child = Process(target=tick, args=(ready,), daemon=True)
    child.start()
    ready.get()
    print("the program ends")
