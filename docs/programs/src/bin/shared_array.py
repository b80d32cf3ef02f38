"""Two processes write the halves of an array."""

from multiprocessing import Array, Process


# No lock: each element has only one writer.
def fill(squares, start):
    half = [i * i for i in range(start, start + 4)]
    squares[start : start + 4] = half


if __name__ == "__main__":
    squares = Array("q", 8, lock=False)
    children = []
    for start in [0, 4]:
        args = (squares, start)
        child = Process(target=fill, args=args)
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(list(squares))
