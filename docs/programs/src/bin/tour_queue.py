"""Two processes send, and one receives."""

# Whatever pickle can write may go through a queue.

from multiprocessing import Process, Queue

NAMES = ["a", "b"]


def count(name, queue):
    # put() returns before the item is sent.
    for i in range(3):
        queue.put((name, i))


if __name__ == "__main__":
    # The queue crosses as an argument.
    queue = Queue()
    children = []
    for name in NAMES:
        args = (name, queue)
        child = Process(target=count, args=args)
        child.start()
        children.append(child)

    # The receiver knows how many items will come.
    items = []
    for _ in range(6):
        items.append(queue.get())

    for child in children:
        child.join()

    # Items of the two processes come in any order.
    for name, i in sorted(items):
        print(name, i)
