"""A pool of workers that squares numbers."""

from multiprocessing import Pool


def square(x):
    return x * x


def run(workers, numbers):
    # `map` returns when all results are there.
    # The end of `with` ends the pool. In Rust, the end
    # of the function does.
    with Pool(processes=workers) as pool:
        squares = pool.map(square, numbers)

    print(squares)


if __name__ == "__main__":
    run(5, [3, 4, 5, 6, 6, 7, 87, 8, 8])
