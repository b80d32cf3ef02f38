"""Two processes count words in one dictionary."""

from multiprocessing import Lock, Manager, Process


# Without the lock, other counts are lost.
def add(counts, lock, word, by):
    with lock:
        counts[word] = counts.get(word, 0) + by

def count(counts, lock):
    for word in ["a", "b", "a"]:
        add(counts, lock, word, 1)


if __name__ == "__main__":
    with Manager() as manager:
        counts = manager.dict()
        lock = Lock()
        children = []
        for _ in range(2):
            args = (counts, lock)
            child = Process(target=count, args=args)
            child.start()
            children.append(child)

        for child in children:
            child.join()
        pairs = sorted(counts.items())
        print(str(pairs).replace("'", '"'))
