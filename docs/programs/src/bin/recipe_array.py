"""An array that all tasks write."""

from multiprocessing import Array, Pool


# No lock: each element has only one writer.
def root(i):
    roots[i] = i**0.5


def prepare(shared_roots):
    global roots
    roots = shared_roots


if __name__ == "__main__":
    roots = Array("d", 1000, lock=False)
    with Pool(3, prepare, (roots,)) as pool:
        pool.map(root, range(1000))
    print(f"{sum(roots):.1f}")
