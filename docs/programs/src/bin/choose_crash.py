"""A crash of a process, and of a thread in a process."""

import os
from multiprocessing import Process
from threading import Thread


# Ends its process by a signal, as a bug in a C library can
# do.
def crash(who):
    print(f"{who} crashes\n", end="", flush=True)
    os.abort()


def crash_in_a_thread(who):
    who = f"a thread of {who}"
    thread = Thread(target=crash, args=(who,))
    thread.start()
    thread.join()
    print("no process prints this")


def show(child):
    name = child.name
    child.join()
    # After a signal, the exit code is the signal's number
    # with a minus sign.
    signal = -child.exitcode
    print(f"{name} has ended by signal {signal}")


if __name__ == "__main__":
    # The processes run one after the other.
    name = "process 1"
    child = Process(target=crash, args=(name,), name=name)
    child.start()
    show(child)

    name = "process 2"
    work = crash_in_a_thread
    child = Process(target=work, args=(name,), name=name)
    child.start()
    show(child)

    print("the program goes on")
