"""Tasks that take turns."""

from multiprocessing import Lock, Pool


# Nothing comes between the two lines of a task.
def report(i):
    with lock:
        print(f"{i}: begun", flush=True)
        print(f"{i}: done", flush=True)


def prepare(shared_lock):
    global lock
    lock = shared_lock


if __name__ == "__main__":
    with Pool(3, prepare, (Lock(),)) as pool:
        pool.map(report, range(4))
