"""Processes with names."""

from multiprocessing import Process, current_process


def work():
    print(f"{current_process().name} works")


if __name__ == "__main__":
    # A name for each, in place of Process-1 and Process-2.
    for name in ["reader", "writer"]:
        child = Process(target=work, name=name)
        child.start()
        child.join()
        print(f"{child.name} has ended")
