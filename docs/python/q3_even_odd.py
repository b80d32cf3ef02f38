"""Two processes: one prints even numbers, one odd ones."""

from multiprocessing import Process


def even(n):
    for i in range(0, n, 2):
        # One write for text and newline: lines stay whole.
        print(f"even: {i}\n", end="", flush=True)


def odd(n):
    for i in range(1, n, 2):
        # One write for text and newline: lines stay whole.
        print(f"odd: {i}\n", end="", flush=True)


def run(n):
    evens = Process(target=even, args=(n,), name="even")
    odds = Process(target=odd, args=(n,), name="odd")

    evens.start()
    odds.start()

    evens.join()
    odds.join()

    print("END!")


if __name__ == "__main__":
    run(15)
