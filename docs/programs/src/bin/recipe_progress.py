"""Progress on stderr, while results come."""

import sys
from multiprocessing import Pool


def square(x):
    return x * x


if __name__ == "__main__":
    squares = []
    with Pool(2) as pool:
        for number in pool.imap(square, range(100)):
            squares.append(number)
            done = len(squares)
            if done % 25 == 0:
                print(f"{done} of 100", file=sys.stderr)
    print(squares[99])
