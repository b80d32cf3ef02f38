"""Two of four processes at a time."""

from multiprocessing import (
    Barrier,
    Process,
    Semaphore,
    Value,
)


# `pair` makes sure that two of them meet inside.
def work(room, pair, inside, most):
    with room:
        with inside.get_lock():
            inside.value += 1
            most.value = max(most.value, inside.value)
        pair.wait()
        with inside.get_lock():
            inside.value -= 1


if __name__ == "__main__":
    args = (
        Semaphore(2),
        Barrier(2),
        Value("q", 0),
        Value("q", 0),
    )
    children = []
    for _ in range(4):
        child = Process(target=work, args=args)
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(args[3].value, "at a time")
