"""Values of several kinds, to a worker and back."""

from dataclasses import dataclass
from multiprocessing import Pipe, Pool, Process


# Objects of a class of the program's own cross, too.
@dataclass
class Point:
    x: float
    y: float


def total(numbers):
    return sum(numbers)


def shout(text):
    return text.upper()


def backwards(data):
    return data[::-1]


def repeat(word, times):
    return word * times


def mirror(point):
    return Point(point.y, point.x)


def count(sender):
    for number in range(2):
        sender.send(number)


if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.apply(total, ([1.0, 2.5],)))
        print(pool.apply(shout, ("text",)))
        print(list(pool.apply(backwards, (bytes([1, 2]),))))
        print(pool.apply(repeat, ("ab", 3)))
        point = pool.apply(mirror, (Point(1.5, 2.5),))
        print(point.x, point.y)

    receiver, sender = Pipe(duplex=False)
    child = Process(target=count, args=(sender,))
    child.start()
    print([receiver.recv() for _ in range(2)])
    child.join()
