"""One function over many values, in several processes."""

from multiprocessing import Pool


def square(x):
    return x * x


if __name__ == "__main__":
    # The pool ends at the end of its block.
    with Pool(5) as pool:
        print(pool.map(square, [1, 2, 3]))
