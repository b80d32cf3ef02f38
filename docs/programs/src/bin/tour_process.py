"""A function that runs in a process of its own."""

from multiprocessing import Process


def greet(name):
    print("hello", name)


if __name__ == "__main__":
    # Described, started, joined.
    child = Process(target=greet, args=("bob",))
    child.start()
    child.join()
