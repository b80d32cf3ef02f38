"""Progress in one line, if stderr is a terminal."""

import sys
from multiprocessing import Pool


# How many steps the Collatz sequence of n takes to 1.
def steps(n):
    count = 0
    while n != 1:
        n = 3 * n + 1 if n % 2 == 1 else n // 2
        count += 1
    return count


if __name__ == "__main__":
    with Pool(4) as pool:
        counts = []
        for count in pool.imap(steps, range(1, 1001)):
            counts.append(count)
            if sys.stderr.isatty():
                progress = f"\r{len(counts)}/1000"
                print(progress, end="", file=sys.stderr)
        if sys.stderr.isatty():
            print(file=sys.stderr)

        print(f"at most {max(counts)} steps")
