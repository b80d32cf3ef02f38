"""Two consumers take items from one queue."""

from multiprocessing import Process, Queue


# None tells a consumer that there are no more.
def square(numbers, squares):
    while (x := numbers.get()) is not None:
        squares.put(x * x)


if __name__ == "__main__":
    numbers = Queue()
    squares = Queue()
    children = []
    for _ in range(2):
        args = (numbers, squares)
        child = Process(target=square, args=args)
        child.start()
        children.append(child)

    for x in [*range(10), None, None]:
        numbers.put(x)
    # A child ends only after its items were taken.
    every = [squares.get() for _ in range(10)]
    for child in children:
        child.join()
    print(sorted(every))
