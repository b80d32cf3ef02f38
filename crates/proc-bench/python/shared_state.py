"""Measures CPython's shared state, as the benchmark `shared-state` measures ours.

Usage: shared_state.py times
       shared_state.py survival TRIALS
       shared_state.py recipes TRIALS

`survival` counts the trials in which the others go on after one process was killed. `recipes` kills
a process of the book's Python programs at a random moment, and counts the trials in which the
program hangs. The test `recipes_under_kill` does the same to the programs in Rust.
"""

import json
import multiprocessing
import os
import queue as queues
import random
import signal
import subprocess
import sys
import time

context = multiprocessing.get_context("fork")
PATIENCE = 1
# The longest time from the moment when a process is busy to its kill.
MAX_MOMENT = 0.003


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


def on_one_processor(measure, *args):
    """Measures while this process and those that it starts have one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        return measure(*args)
    finally:
        os.sched_setaffinity(0, before)


def times():
    trips = [
        ("Queue, there and back", trip_times, context.Queue),
        ("SimpleQueue, there and back", trip_times, context.SimpleQueue),
        ("Pipe, there and back", pipe_times),
        ("Manager().dict(), an assignment", manager_times),
    ]
    return [
        ("Lock", lock_times()),
        ("Value, add one with its lock", value_times()),
        ("Queue, 1 to 1, an item", queue_times()),
        *((name, measure(*args)) for name, measure, *args in trips),
        *(
            (f"{name}, on one processor", on_one_processor(measure, *args))
            for name, measure, *args in trips
        ),
    ]


def start(work, *args):
    """Runs `work` in a process, and waits until that process says that it is busy."""
    busy, tell = os.pipe()
    process = context.Process(target=work, args=(lambda: os.write(tell, b"!"), *args))
    process.start()
    os.close(tell)
    if not os.read(busy, 1):
        raise ChildProcessError("the process ended before it was busy")
    os.close(busy)
    return process


def forever(tell, step):
    """Makes one step, says that the process is busy, and goes on until the process is killed."""
    step()
    tell()
    while True:
        step()


def kill(process, meanwhile=time.sleep):
    """Kills a process that is busy, at a random moment. Until then, calls `meanwhile`."""
    moment = time.monotonic() + random.uniform(0, MAX_MOMENT)
    while (left := moment - time.monotonic()) > 0:
        meanwhile(left)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def take(tell, lock):
    def step():
        with lock:
            pass

    forever(tell, step)


def lock_survives():
    lock = context.Lock()
    kill(start(take, lock))
    return lock.acquire(timeout=PATIENCE)


def add(tell, value):
    def step():
        with value.get_lock():
            value.value += 1

    forever(tell, step)


def value_survives():
    value = context.Value("q", 0)
    kill(start(add, value))
    return value.get_lock().acquire(timeout=PATIENCE)


def semaphore_survives():
    semaphore = context.Semaphore(1)
    kill(start(take, semaphore))
    return semaphore.acquire(timeout=PATIENCE)


def end(*processes):
    """Whether all of these end. Those that do not are killed."""
    for process in processes:
        process.join(PATIENCE)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    return not alive


def wait(tell, thing):
    tell()
    thing.wait()


def event_survives():
    event = context.Event()
    other = start(wait, event)
    kill(start(wait, event))
    setter = context.Process(target=event.set)  # it may hang too
    setter.start()
    return end(other, setter)


def wait_for(tell, condition, flag):
    with condition:
        tell()
        while flag.value == 0:
            condition.wait()


def change(condition, flag):
    with condition:
        flag.value = 1
        condition.notify()


def condition_survives():
    condition, flag = context.Condition(), context.Value("i", 0, lock=False)
    other = start(wait_for, condition, flag)
    kill(start(wait_for, condition, flag))
    changer = context.Process(target=change, args=(condition, flag))
    changer.start()
    return end(other, changer)


def barrier_survives():
    """One of three parties is killed. This process is the third one, and never arrives."""
    barrier = context.Barrier(3)
    other = start(wait, barrier)
    kill(start(wait, barrier))
    return end(other)


def put_forever(tell, queue):
    tell()  # before the first step, since the queue may be full
    while True:
        queue.put(1)


def get_one(queue, timeout):
    try:
        return queue.get(timeout=timeout)
    except queues.Empty:
        return None


def producers_survive():
    """One of two busy producers is killed. This process consumes."""
    queue = context.Queue(100)
    other = start(put_forever, queue)
    kill(start(put_forever, queue), lambda left: get_one(queue, left))
    goes_on = all(get_one(queue, PATIENCE) is not None for _ in range(1000))
    other.kill()
    return goes_on


def pass_on(tell, queue, got):
    tell()
    while True:
        got.put(queue.get())


def consumers_survive():
    """One of two idle consumers is killed."""
    queue, got = context.SimpleQueue(), context.Queue()
    other = start(pass_on, queue, got)
    kill(start(pass_on, queue, got))
    queue.put(7)
    goes_on = get_one(got, PATIENCE) == 7
    other.kill()
    return goes_on


def send_forever(tell, connection):
    forever(tell, lambda: connection.send(1))


def pipe_survives():
    here, there = context.Pipe()
    process = start(send_forever, there)
    there.close()
    kill(process, lambda left: here.poll(left) and here.recv())
    try:
        while here.poll(PATIENCE):
            here.recv()
        return False
    except EOFError:
        return True


def assign(tell, dictionary):
    def step():
        dictionary[1] = 1

    forever(tell, step)


def manager_survives():
    with context.Manager() as manager:
        dictionary = manager.dict()
        kill(start(assign, dictionary))
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
    return [(name, sum(bool(kind()) for _ in range(trials))) for name, kind in kinds]


RECIPES = ["counter", "queue", "lock", "event", "dict", "pipe", "array"]
# How long a program may take after a kill. Without a kill, it takes a fraction of a second.
RECIPE_PATIENCE = 5


def children(program):
    """The children of a program that are no zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                # pid (name) state parent ..., where the name may hold anything.
                state, parent = file.read().rpartition(") ")[2].split()[:2]
        except OSError:
            continue  # it has ended
        if int(parent) == program and state != "Z":
            found.append(int(entry))
    return found


def run_recipe(name, moment=None):
    """Runs a program, and kills one of its children `moment` seconds after the first child began.

    Returns whether one was killed, whether the program ended, and its time from the first child on.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    file = os.path.join(here, f"../../../docs/programs/src/bin/recipe_{name}.py")
    nowhere = subprocess.DEVNULL
    program = subprocess.Popen(
        [sys.executable, file], start_new_session=True, stdout=nowhere, stderr=nowhere
    )
    while program.poll() is None and not children(program.pid):
        pass
    begin, killed = time.monotonic(), False
    if moment is not None:
        time.sleep(moment)
        victims = children(program.pid) if program.poll() is None else []
        if victims:
            try:
                os.kill(random.choice(victims), signal.SIGKILL)
                killed = True
            except ProcessLookupError:
                pass
    try:
        program.wait(RECIPE_PATIENCE)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    taken = time.monotonic() - begin
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    program.wait()
    return killed, ended, taken


def count_hangs(name, trials):
    life = max(run_recipe(name)[2] for _ in range(3))
    kills = hangs = 0
    while kills < trials:
        killed, ended, _ = run_recipe(name, random.uniform(0, life))
        kills += killed
        hangs += killed and not ended
    return hangs


def show_recipes(trials):
    print(f"Trials of {trials} in which a recipe hangs after a kill:")
    for name in RECIPES:
        print(f"{count_hangs(name, trials):4}  recipe_{name}.py", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "recipes":
        show_recipes(int(sys.argv[2]))
    else:
        result = times() if sys.argv[1] == "times" else survival(int(sys.argv[2]))
        json.dump(result, sys.stdout)
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)  # a feeder thread of a queue may wait forever
