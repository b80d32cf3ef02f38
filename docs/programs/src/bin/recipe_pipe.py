"""A process that is asked, and answers."""

from multiprocessing import Pipe, Process


# None is the end.
def add_up(parent):
    total = 0
    while (x := parent.recv()) is not None:
        total += x
        parent.send(total)


if __name__ == "__main__":
    here, there = Pipe()
    child = Process(target=add_up, args=(there,))
    child.start()
    for x in [5, 3, 4]:
        here.send(x)
        print(x, "makes", here.recv())

    here.send(None)
    child.join()
