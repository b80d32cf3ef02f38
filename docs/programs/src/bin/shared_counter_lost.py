"""Four processes count together, and lose counts."""

from multiprocessing import Process, Value


def count(counter):
    for _ in range(10_000):
        # Reads, then writes. What another process writes
        # in between is lost.
        counter.value += 1


def count_in_processes():
    counter = Value("q", 0)
    children = []
    for _ in range(4):
        child = Process(target=count, args=(counter,))
        child.start()
        children.append(child)

    for child in children:
        child.join()
    return counter.value


if __name__ == "__main__":
    # One run is enough, nearly always.
    while count_in_processes() == 40_000:
        pass
    print("fewer than 40000")
