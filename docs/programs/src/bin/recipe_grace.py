"""A task that returns what it has when its time is over."""

from multiprocessing import Event, Pool


# The task looks at the event often. Something that
# does not look would go on for ever.
def add_up():
    total, k = 0, 1
    while True:
        for _ in range(1000):
            total += 1 / (k * k)
            k += 1
        if stop.is_set():
            return total


def begin(event):
    global stop
    stop = event


if __name__ == "__main__":
    event = Event()
    with Pool(1, begin, (event,)) as pool:
        task = pool.apply_async(add_up)
        task.wait(0.1)
        event.set()
        print(f"{task.get():.2f}")
