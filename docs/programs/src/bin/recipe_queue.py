"""A queue with several consumers."""

from multiprocessing import JoinableQueue, Process, Queue


# Each number goes to one of the consumers.
def square(numbers, squares):
    while True:
        x = numbers.get()
        squares.put(x * x)
        numbers.task_done()


if __name__ == "__main__":
    numbers = JoinableQueue()
    squares = Queue()
    args = (numbers, squares)
    for _ in range(3):
        consumer = Process(target=square, args=args)
        consumer.daemon = True
        consumer.start()

    for x in range(10):
        numbers.put(x)
    numbers.join()
    print(sorted(squares.get() for _ in range(10)))
