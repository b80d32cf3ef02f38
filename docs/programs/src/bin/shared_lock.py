"""A lock for two numbers that belong together."""

from multiprocessing import Array, Lock, Process


# Only one process at a time transfers money.
def transfer(accounts, lock):
    for _ in range(1000):
        with lock:
            accounts[0] -= 1
            accounts[1] += 1


if __name__ == "__main__":
    accounts = Array("q", [5000, 0], lock=False)
    lock = Lock()
    children = []
    for _ in range(4):
        args = (accounts, lock)
        child = Process(target=transfer, args=args)
        child.start()
        children.append(child)

    for child in children:
        child.join()
    print(list(accounts))
