"""Measures CPython's shared state, as the benchmark `shared-state` measures ours.

Usage: shared_state.py times
       shared_state.py survival TRIALS
"""

import json
import multiprocessing
import os
import signal
import sys
import time

context = multiprocessing.get_context("fork")
PATIENCE = 1


def per(count, work):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e6 / count


def lock_times():
    lock = context.Lock()

    def work():
        for _ in range(100_000):
            with lock:
                pass

    return per(100_000, work)


def value_times():
    value = context.Value("q", 0)

    def work():
        for _ in range(50_000):
            with value.get_lock():
                value.value += 1

    return per(50_000, work)


def put_all(queue, count):
    for item in range(count):
        queue.put(item)


def queue_times():
    queue = context.Queue(1000)
    producer = context.Process(target=put_all, args=(queue, 20_001))
    producer.start()
    queue.get()

    def work():
        for _ in range(20_000):
            queue.get()

    taken = per(20_000, work)
    producer.join()
    return taken


def echo(there, back):
    while (item := there.get()) is not None:
        back.put(item)


def trip_times(kind):
    there, back = kind(), kind()
    other = context.Process(target=echo, args=(there, back))
    other.start()
    there.put(0)
    back.get()

    def work():
        for item in range(3000):
            there.put(item)
            back.get()

    taken = per(3000, work)
    there.put(None)
    other.join()
    return taken


def echo_pipe(connection):
    while (item := connection.recv()) is not None:
        connection.send(item)


def pipe_times():
    here, there = context.Pipe()
    other = context.Process(target=echo_pipe, args=(there,))
    other.start()
    here.send(0)
    here.recv()

    def work():
        for item in range(3000):
            here.send(item)
            here.recv()

    taken = per(3000, work)
    here.send(None)
    other.join()
    return taken


def manager_times():
    with context.Manager() as manager:
        dictionary = manager.dict()

        def work():
            for number in range(3000):
                dictionary["key"] = number

        return per(3000, work)


def times():
    return [
        ("Lock", lock_times()),
        ("Value, add one with its lock", value_times()),
        ("Queue, 1 to 1, an item", queue_times()),
        ("Queue, there and back", trip_times(context.Queue)),
        ("SimpleQueue, there and back", trip_times(context.SimpleQueue)),
        ("Pipe, there and back", pipe_times()),
        ("Manager().dict(), an assignment", manager_times()),
    ]


def killed(target, args, trial):
    process = context.Process(target=target, args=args)
    process.start()
    time.sleep((500 + 137 * trial) / 1e6)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def take_lock(lock):
    while True:
        with lock:
            pass


def lock_survives(trial):
    lock = context.Lock()
    killed(take_lock, (lock,), trial)
    return lock.acquire(timeout=PATIENCE)


def add(value):
    while True:
        with value.get_lock():
            value.value += 1


def value_survives(trial):
    value = context.Value("q", 0)
    killed(add, (value,), trial)
    return value.get_lock().acquire(timeout=PATIENCE)


def semaphore_survives(trial):
    semaphore = context.Semaphore(1)
    killed(take_lock, (semaphore,), trial)
    return semaphore.acquire(timeout=PATIENCE)


def ends(process):
    process.join(PATIENCE)
    alive = process.is_alive()
    process.kill()
    return not alive


def event_survives(trial):
    event = context.Event()
    other = context.Process(target=event.wait)
    other.start()
    killed(event.wait, (), trial)
    setter = context.Process(target=event.set)  # it may hang too
    setter.start()
    return ends(other) and ends(setter)


def wait_for(condition, flag):
    with condition:
        while flag.value == 0:
            condition.wait()


def change(condition, flag):
    with condition:
        flag.value = 1
        condition.notify()


def condition_survives(trial):
    condition, flag = context.Condition(), context.Value("i", 0, lock=False)
    other = context.Process(target=wait_for, args=(condition, flag))
    other.start()
    killed(wait_for, (condition, flag), trial)
    changer = context.Process(target=change, args=(condition, flag))
    changer.start()
    return ends(other) and ends(changer)


def wait_at(barrier):
    barrier.wait()


def barrier_survives(trial):
    barrier = context.Barrier(3)
    other = context.Process(target=wait_at, args=(barrier,))
    other.start()
    killed(wait_at, (barrier,), trial)
    return ends(other)


def put_forever(queue):
    while True:
        queue.put(1)


def producers_survive(trial):
    queue = context.Queue(100)
    other = context.Process(target=put_forever, args=(queue,))
    other.start()
    killed(put_forever, (queue,), trial)
    try:
        for _ in range(1000):
            queue.get(timeout=PATIENCE)
        return True
    except Exception:
        return False
    finally:
        other.kill()


def pass_on(queue, got):
    while True:
        got.put(queue.get())


def consumers_survive(trial):
    queue, got = context.SimpleQueue(), context.Queue()
    other = context.Process(target=pass_on, args=(queue, got))
    other.start()
    killed(pass_on, (queue, got), trial)
    queue.put(7)
    try:
        return got.get(timeout=PATIENCE) == 7
    except Exception:
        return False
    finally:
        other.kill()


def send_forever(connection):
    while True:
        connection.send(1)


def pipe_survives(trial):
    here, there = context.Pipe()
    process = context.Process(target=send_forever, args=(there,))
    process.start()
    there.close()
    time.sleep((500 + 137 * trial) / 1e6)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        while here.poll(PATIENCE):
            here.recv()
        return False
    except EOFError:
        return True


def assign(dictionary):
    while True:
        dictionary[1] = 1


def manager_survives(trial):
    with context.Manager() as manager:
        dictionary = manager.dict()
        killed(assign, (dictionary,), trial)
        dictionary[1] = 1
        return dictionary[1] == 1


def survival(trials):
    kinds = [
        ("lock", lock_survives),
        ("value", value_survives),
        ("semaphore", semaphore_survives),
        ("event", event_survives),
        ("condition", condition_survives),
        ("barrier", barrier_survives),
        ("queue, one of two producers", producers_survive),
        ("queue, one of two consumers", consumers_survive),
        ("pipe", pipe_survives),
        ("manager, a client", manager_survives),
    ]
    return [(name, sum(bool(kind(trial)) for trial in range(trials))) for name, kind in kinds]


if __name__ == "__main__":
    result = times() if sys.argv[1] == "times" else survival(int(sys.argv[2]))
    json.dump(result, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a feeder thread of a queue may wait forever
