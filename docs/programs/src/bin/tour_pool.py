"""Four ways to give work to a pool."""

from multiprocessing import Pool


def square(x):
    return x * x


if __name__ == "__main__":
    # The pool ends at the end of its block.
    with Pool(4) as pool:
        # All results, in the order of the inputs.
        print("map", pool.map(square, range(5)))

        # One result after the other, in that order.
        for result in pool.imap(square, range(3)):
            print("imap", result)

        # One after the other, as they come.
        total = 0
        for result in pool.imap_unordered(square, range(5)):
            total += result
        print("imap_unordered", total)

        # One call, whose result is fetched later.
        task = pool.apply_async(square, (20,))
        print("apply_async", task.get())
