"""Processes or threads? The same work both ways."""

import multiprocessing
import os
import queue
import signal
import sys
from multiprocessing import Pipe, Pool, Process, SimpleQueue, Value, get_context
from multiprocessing.pool import ThreadPool
from threading import Barrier, Lock, Thread
from time import perf_counter, sleep

WORKERS = 2
BUDGET = 0.1  # seconds for each figure
LONG = 30  # seconds for a program that ends by itself


# Memory

counter = 0


def add(n, seen):
    global counter
    counter += n
    seen.put(counter)


def by_thread(n):
    before, seen = reset(), SimpleQueue()
    other = Thread(target=add, args=(n, seen))
    other.start()
    joined = other.join()
    after = counter
    return before, seen.get(), after, joined


def by_process(n):
    before, seen = reset(), SimpleQueue()
    other = Process(target=add, args=(n, seen))
    other.start()
    joined = other.join()
    after = counter
    return before, seen.get(), after, joined


def reset():
    global counter
    counter = 0
    return counter


# Cost of one


def nothing():
    pass


def start_thread():
    other = Thread(target=nothing)
    other.start()
    other.join()


def start_process():
    other = Process(target=nothing)
    other.start()
    other.join()


# The median of as many runs as fit, the first one not counted.
def median(budget, once):
    once()
    times = []
    begin = perf_counter()
    while len(times) < 5 or perf_counter() - begin < budget:
        start = perf_counter()
        once()
        times.append(perf_counter() - start)
    return sorted(times)[len(times) // 2]


# Sends back whatever comes, until `None` comes.
def echo(end):
    while True:
        question = end.recv()
        if question is None:
            break
        end.send(question)


def between_processes(budget):
    # A pipe has two ends. Each of them both sends
    # and receives.
    here, there = Pipe()
    other = Process(target=echo, args=(there,))
    other.start()

    def once():
        here.send(1)
        here.recv()

    time = median(budget, once)
    here.send(None)
    other.join()
    return time


def between_threads(budget):
    # The same pipe, the same function: only the kind
    # of the other side differs.
    here, there = Pipe()
    other = Thread(target=echo, args=(there,))
    other.start()

    def once():
        here.send(1)
        here.recv()

    time = median(budget, once)
    here.send(None)
    other.join()
    return time


def between_threads_by_queue(budget):
    questions, answers = queue.SimpleQueue(), queue.SimpleQueue()

    def echo():
        while (question := questions.get()) is not None:
            answers.put(question)

    def once():
        questions.put(1)
        answers.get()

    other = Thread(target=echo)
    other.start()
    time = median(budget, once)
    questions.put(None)
    other.join()
    return time


# A line of a process's memory map in KiB, or None without such a file.
def resident(pid, what):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return float(next(line for line in lines if line.startswith(what + ":")).split()[1])
    except OSError:
        return None


# What each of many idle threads adds to this process.
def memory_of_thread():
    before, gate = resident("self", "Rss"), Barrier(65)
    threads = [Thread(target=lambda: (gate.wait(), gate.wait())) for _ in range(64)]
    for thread in threads:
        thread.start()
    gate.wait()
    after = resident("self", "Rss")
    gate.wait()
    for thread in threads:
        thread.join()
    return after and (after - before) / len(threads)


# All of an idle process's own pages, and its part of each page that it shares.
def memory_of_process():
    here, there = Pipe()
    idle = Process(target=echo, args=(there,))
    idle.start()
    here.send(1)
    here.recv()
    size = resident(idle.pid, "Pss")
    here.send(None)
    idle.join()
    return size


# Work to share


# Keeps a core busy: the lengths of Collatz sequences.
def collatz(part):
    first, step, end = part
    lengths = 0
    for start in range(first, end, step):
        n = start
        while n > 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            lengths += 1
    return lengths


# Waits, as programs wait for a disk: no core is busy.
# While a thread of Python sleeps, others can run code
# of Python.
def wait(part):
    first, step, end = part
    answers = 0
    for number in range(first, end, step):
        sleep(0.002)
        answers += number
    return answers


def by_processes(work, parts):
    # A pool returns results, a `Process` does not.
    # In both languages, the time to start the pool
    # counts.
    workers = len(parts)
    with Pool(workers) as pool:
        sums = pool.map(work, parts)
    return sum(sums)


def by_threads(work, parts):
    # Python has a pool of threads. Rust's threads
    # return a result from `join`.
    workers = len(parts)
    with ThreadPool(workers) as pool:
        sums = pool.map(work, parts)
    return sum(sums)


# When a part fails


def faulty():
    sys.stderr = open(os.devnull, "w")  # no report
    raise ValueError("no such customer")


# As after a null pointer or a stack overflow.
def crash():
    os.abort()


def in_thread(part):
    thread = Thread(target=part)
    thread.start()
    joined = thread.join()
    # The exception went to `threading.excepthook`, which
    # prints it.
    # `join` does not report the exception: it returns
    # `None` in any case.
    return f"join returned {joined}"


def in_process(part):
    process = Process(target=part)
    process.start()
    process.join()
    return f"the exit code is {process.exitcode}"


def stuck_threads():
    left, right = Lock(), Lock()
    both_hold_one = Barrier(2)

    def take(first, second):
        with first:
            both_hold_one.wait()
            with second:  # the other has it
                pass

    other = Thread(target=take, args=(left, right))
    other.start()
    take(right, left)
    return "both threads got both locks"


# Waits for the other's message, then sends its own.
def after_you(theirs, mine):
    try:
        theirs.recv()
    except EOFError:
        sys.exit(1)
    mine.send("after you")


def stuck_processes(patience):
    left, to_left = Pipe(duplex=False)
    right, to_right = Pipe(duplex=False)
    # With `fork`, both processes would have all ends.
    Process = get_context("forkserver").Process
    one = Process(target=after_you, args=(left, to_right))
    other = Process(target=after_you, args=(right, to_left))
    one.start()
    other.start()
    for end in [left, to_left, right, to_right]:
        end.close()
    one.join(patience)
    assert one.exitcode is None, "they were not stuck"
    one.kill()
    one.join()
    other.join()
    assert other.exitcode == 1, "it received a message"
    end = name(one.exitcode)
    return f"one is killed ({end}), the other goes on"


# Both read the value before either of them writes it.
def lose(value, both):
    read = value.value
    both.wait()
    value.value = read + 1


# Nobody writes between the reading and the writing.
def keep(value, both):
    both.wait()
    with value.get_lock():
        value.value += 1


# Threads can use what processes share. `Part` is `Thread`
# or `Process`.
def sum_of_two(Part, add):
    both = Value("q", 0), multiprocessing.Barrier(2)
    one = Part(target=add, args=both)
    other = Part(target=add, args=both)
    one.start()
    other.start()
    one.join()
    other.join()
    return f"it goes on: the sum is {both[0].value}"


# What becomes of a program. It runs in a process of its own, so that this one can report its end.
def fate(program, *arguments, patience=LONG):
    here, there = Pipe(duplex=False)
    child = Process(target=tell, args=(there, program, *arguments))
    child.start()
    child.join(patience)
    if child.exitcode is None:
        child.kill()  # it is stuck
        child.join()
    if child.exitcode == 0:
        return f"it goes on: {here.recv()}"
    return f"it is dead, all of it: {name(child.exitcode)}"


def tell(there, program, *arguments):
    there.send(program(*arguments))


def name(exitcode):
    return f"signal: {-exitcode} ({signal.Signals(-exitcode).name})"


# What is printed


def row(what, thread, process, ratio=""):
    print(f"{what:<40}{thread!s:>14}{process!s:>14}{ratio:>9}".rstrip())


def ratio_of(thread, process):
    return f"{process / thread:.1f} x" if thread and process else ""


def compare(what, thread, process):
    cells = [f"{seconds * 1e6:.1f} µs" for seconds in [thread, process]]
    row(what, *cells, ratio_of(thread, process))


def memory():
    row("MEMORY", "thread", "process")
    rows = zip(by_thread(1000), by_process(1000))
    for what in [
        "a global is, here",
        "the other adds 1000 and then sees",
        "it is now, here",
        "what join gave back",
    ]:
        row(what, *next(rows))


def costs():
    print()
    row("COST OF ONE", "thread", "process")
    compare("start and join", median(BUDGET, start_thread), median(BUDGET, start_process))
    process = between_processes(BUDGET)
    compare("ping-pong: queue and pipe", between_threads_by_queue(BUDGET), process)
    compare("ping-pong: pipe in both", between_threads(BUDGET), process)
    sizes = memory_of_thread(), memory_of_process()
    cells = ["not measured" if size is None else f"{size:.1f} KiB" for size in sizes]
    row("memory while idle", *cells, ratio_of(*sizes))


def timed(work, *arguments):
    start = perf_counter()
    result = work(*arguments)
    return perf_counter() - start, result


def sharing_work():
    print()
    row(f"WORK SHARED BY {WORKERS}", "threads", "processes")
    for what, work, end in [("computing", collatz, 20_000), ("waiting", wait, 100)]:
        parts = [(first, WORKERS, end) for first in range(WORKERS)]
        alone, result = timed(work, (0, 1, end))
        threads, one = timed(by_threads, work, parts)
        processes, two = timed(by_processes, work, parts)
        assert one == two == result
        row(f"{what}: one alone needs", *[f"{alone * 1e3:.1f} ms"] * 2)
        row("  shared, it takes", f"{threads * 1e3:.1f} ms", f"{processes * 1e3:.1f} ms")
        row("  speed-up", f"{alone / threads:.1f} x", f"{alone / processes:.1f} x")
        row("  result", one, two)


def failures():
    print("\nWHEN A PART FAILS, what becomes of the program it is part of")
    for what, thread, process in [
        ("it raises an exception", fate(in_thread, faulty), fate(in_process, faulty)),
        ("it aborts", fate(in_thread, crash), fate(in_process, crash)),
        (
            "two wait for each other",
            fate(stuck_threads, patience=0.5),
            fate(stuck_processes, 0.5),
        ),
        (
            "two read a shared value, then write it plus 1",
            sum_of_two(Thread, lose),
            sum_of_two(Process, lose),
        ),
        (
            "two add 1 to a shared value in one step",
            sum_of_two(Thread, keep),
            sum_of_two(Process, keep),
        ),
    ]:
        print(f"{what}\n  thread   {thread}\n  process  {process}")


if __name__ == "__main__":
    memory()
    costs()
    sharing_work()
    failures()
