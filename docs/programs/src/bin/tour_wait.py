"""The first of two processes to end."""

from multiprocessing import Event, Process
from multiprocessing.connection import wait


def quick():
    pass


def slow(go):
    go.wait()


if __name__ == "__main__":
    # The slow one waits for the event.
    go = Event()
    children = [
        Process(target=slow, args=(go,), name="slow"),
        Process(target=quick, name="quick"),
    ]
    for child in children:
        child.start()

    sentinels = [child.sentinel for child in children]
    for ended in wait(sentinels):
        child = children[sentinels.index(ended)]
        print(child.name, "has ended")

    go.set()
    for child in children:
        child.join()
    print("both have ended")
