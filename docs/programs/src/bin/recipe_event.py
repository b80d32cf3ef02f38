"""Tasks that wait for a signal."""

from multiprocessing import Event, Pool


# The program sets the event.
def work(x):
    go.wait()
    return x * x


def prepare(event):
    global go
    go = event


if __name__ == "__main__":
    event = Event()
    with Pool(2, prepare, (event,)) as pool:
        squares = pool.map_async(work, range(4))
        print("done" if squares.ready() else "waiting")
        event.set()
        print(squares.get())
