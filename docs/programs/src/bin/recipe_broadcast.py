"""What each worker has counted, gathered at the end."""

from multiprocessing import Barrier, Pool

seen = 0


def prepare(shared_barrier):
    global barrier
    barrier = shared_barrier


def add_one(_):
    global seen
    seen += 1


def report(_):
    # Wait for the others, so that no worker reports twice.
    barrier.wait()
    return seen


if __name__ == "__main__":
    with Pool(3, prepare, (Barrier(3),)) as pool:
        pool.map(add_one, range(1000))
        counts = pool.map(report, range(3), chunksize=1)
        print(f"{len(counts)} workers: {sum(counts)} tasks")
