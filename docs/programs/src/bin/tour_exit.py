"""How processes end, and how the parent can end them."""

import signal
import sys
import time
from multiprocessing import Process


def leave(code):
    sys.exit(code)


def nap(seconds):
    time.sleep(seconds)


def show(child):
    child.join()
    code = child.exitcode
    if code >= 0:
        print("exit status:", code)
    else:
        name = signal.Signals(-code).name
        print(f"signal: {-code} ({name})")


if __name__ == "__main__":
    # It returns.
    child = Process(target=nap, args=(0,))
    child.start()
    show(child)

    # It exits by itself.
    child = Process(target=leave, args=(3,))
    child.start()
    show(child)

    # It is asked to end.
    child = Process(target=nap, args=(3600,))
    child.start()
    child.terminate()
    show(child)

    # It is killed.
    child = Process(target=nap, args=(3600,))
    child.start()
    child.kill()
    show(child)
