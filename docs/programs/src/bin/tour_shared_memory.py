"""One table that all processes read, and one total."""

from multiprocessing import Array, Process, Value

# Many readers need no lock. Many writers do.


def add(table, total, start):
    part = sum(table[start : start + 250])
    with total.get_lock():
        total.value += part


if __name__ == "__main__":
    # "q" is a whole number of 64 bits.
    table = Array("q", range(1000), lock=False)
    total = Value("q", 0)

    children = []
    for start in range(0, 1000, 250):
        args = (table, total, start)
        child = Process(target=add, args=args)
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(total.value)
