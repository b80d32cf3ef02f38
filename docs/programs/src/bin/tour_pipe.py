"""A process that answers."""

from multiprocessing import Pipe, Process


# One end of a pipe both sends and receives.


def double(pipe):
    # Until the agreed message for the end.
    while (x := pipe.recv()) is not None:
        pipe.send(2 * x)


if __name__ == "__main__":
    # Two ends: one for the parent, one for the child.
    pipe, other_end = Pipe()
    args = (other_end,)
    child = Process(target=double, args=args)
    child.start()

    for x in [3, 4, 5]:
        pipe.send(x)
        print(x, "doubled is", pipe.recv())

    # The end.
    pipe.send(None)
    child.join()
