"""Four processes that print different numbers."""

from multiprocessing import Process


def print_number(number):
    # One write for text and newline: lines stay whole.
    line = f"Process {number} is printing: {number}\n"
    print(line, end="", flush=True)


def run(count):
    processes = []

    # Start all of them before any is joined.
    for n in range(count):
        process = Process(target=print_number, args=(n,))
        process.start()
        processes.append(process)

    for process in processes:
        process.join()


if __name__ == "__main__":
    run(4)
