"""A pool of workers that squares numbers."""

from multiprocessing import Pool


def square(x):
    return x * x


if __name__ == "__main__":
    numbers = [3, 4, 5, 6, 6, 7, 87, 8, 8]

    with Pool(processes=5) as pool:
        squares = pool.map(square, numbers)

    print(squares)
