"""Two processes: one prints the even numbers below n, the other the odd ones."""

from multiprocessing import Process


def even(n):
    for i in range(0, n, 2):
        # One write a line, newline included, so that no other process's line gets into it.
        print(f"even: {i}\n", end="", flush=True)


def odd(n):
    for i in range(1, n, 2):
        print(f"odd: {i}\n", end="", flush=True)


if __name__ == "__main__":
    n = 15

    evens = Process(target=even, args=(n,), name="even")
    odds = Process(target=odd, args=(n,), name="odd")

    evens.start()
    odds.start()

    evens.join()
    odds.join()

    print("END!")
