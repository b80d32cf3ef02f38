"""Four processes count together."""

from multiprocessing import Process, Value


# `+=` reads and writes, so it needs the lock.
def count(counter):
    for _ in range(10_000):
        with counter.get_lock():
            counter.value += 1


if __name__ == "__main__":
    # "q" is a whole number of 64 bits.
    counter = Value("q", 0)
    children = []
    for _ in range(4):
        child = Process(target=count, args=(counter,))
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(counter.value)
