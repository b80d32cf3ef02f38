"""What a process begins with, by its start method."""

# Which processes have the value that the parent has set?

from multiprocessing import get_context

level = 1


def show(name):
    print(f"{name}: level {level}")


if __name__ == "__main__":
    # The children do not run this block.
    level = 2
    for name in ["fork", "spawn", "forkserver"]:
        context = get_context(name)
        child = context.Process(target=show, args=(name,))
        child.start()
        child.join()
