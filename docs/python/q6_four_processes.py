"""Four processes, each of which prints a different number."""

from multiprocessing import Process


def print_number(number):
    # One write a line, newline included, so that no other process's line gets into it.
    print(f"Process {number} is printing: {number}\n", end="", flush=True)


if __name__ == "__main__":
    processes = [Process(target=print_number, args=(number,)) for number in range(4)]

    # Start all of them first: joining each at once would run them one after the other.
    for process in processes:
        process.start()
    for process in processes:
        process.join()
