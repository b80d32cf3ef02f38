"""One process waits for what another one produces."""

from multiprocessing import Condition, Process, Value


# A condition has a lock of its own.
def produce(stock, changed):
    for _ in range(3):
        with changed:
            stock.value += 1
            changed.notify()


if __name__ == "__main__":
    stock = Value("q", 0, lock=False)
    changed = Condition()
    args = (stock, changed)
    child = Process(target=produce, args=args)
    child.start()

    with changed:
        changed.wait_for(lambda: stock.value >= 3)
        print(stock.value, "in stock")
    child.join()
