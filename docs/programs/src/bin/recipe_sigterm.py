"""Tasks go on when SIGTERM comes to all processes."""

import os
import signal
import time
from multiprocessing import Pool


# A task that is running when the signal comes.
def square(x):
    time.sleep(0.1)
    return x * x


def begin():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def note(*_):
    print("SIGTERM: the program finishes its work")


if __name__ == "__main__":
    pool = Pool(1, begin)
    squares = pool.imap(square, range(4))
    # The worker has begun, so it ignores the signal.
    print(next(squares))
    signal.signal(signal.SIGTERM, note)
    # What a service manager sends.
    os.killpg(os.getpgrp(), signal.SIGTERM)
    for number in squares:
        print(number)
    # Not terminate(), which would send SIGTERM.
    pool.close()
    pool.join()
