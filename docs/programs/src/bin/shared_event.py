"""Three processes wait for one signal."""

from multiprocessing import Event, Process, Value


# The event is set once, for all of them.
def start(go, started):
    go.wait()
    with started.get_lock():
        started.value += 1


if __name__ == "__main__":
    go = Event()
    started = Value("q", 0)
    children = []
    for _ in range(3):
        args = (go, started)
        child = Process(target=start, args=args)
        child.start()
        children.append(child)

    print(started.value, "have started")
    go.set()
    for child in children:
        child.join()
    print(started.value, "have started")
