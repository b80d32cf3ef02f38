"""Three processes print two lines each, in one piece."""

# All of them print, one after the other.

from multiprocessing import Lock, Process


def hello(lock, i):
    with lock:
        print(f"{i}: hello", flush=True)
        print(f"{i}: world", flush=True)


if __name__ == "__main__":
    # The lock crosses as an argument.
    lock = Lock()
    children = []
    for i in range(3):
        child = Process(target=hello, args=(lock, i))
        child.start()
        children.append(child)

    for child in children:
        child.join()
