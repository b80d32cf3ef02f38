"""A worker that has grown is replaced."""

import os
from multiprocessing import Pool

leaked = []


def leak(mebibytes):
    # What is in the list is never freed.
    leaked.append(b"x" * (mebibytes << 20))
    return os.getpid()


if __name__ == "__main__":
    # The pool counts tasks, not bytes. So the program must
    # know that the second task is the large one.
    with Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(leak, [1, 200, 1, 1], chunksize=1)
    print(len(set(pids)), "workers for 4 tasks")
