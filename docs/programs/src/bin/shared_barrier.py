"""Nobody reads before all have written."""

from multiprocessing import Array, Barrier, Process

# Three processes write, and then read.


def work(parts, sums, all_written, i):
    parts[i] = i + 1
    all_written.wait()
    sums[i] = sum(parts)


if __name__ == "__main__":
    parts = Array("q", 3, lock=False)
    sums = Array("q", 3, lock=False)
    all_written = Barrier(3)
    children = []
    for i in range(3):
        args = (parts, sums, all_written, i)
        child = Process(target=work, args=args)
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(list(sums))
