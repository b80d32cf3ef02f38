"""A process answers what it is asked."""

from multiprocessing import Pipe, Process


# None tells the process to end.
def measure(parent):
    while (text := parent.recv()) is not None:
        parent.send(len(text))


if __name__ == "__main__":
    here, there = Pipe()
    child = Process(target=measure, args=(there,))
    child.start()
    for text in ["one", "three"]:
        here.send(text)
        print(text, "has", here.recv(), "letters")

    here.send(None)
    child.join()
