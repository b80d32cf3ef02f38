"""What becomes of an object when its process is killed."""

import time
from multiprocessing import (
    Array,
    Barrier,
    Condition,
    Event,
    JoinableQueue,
    Lock,
    Pipe,
    Process,
    Queue,
    RLock,
    Semaphore,
    Value,
)
from multiprocessing.managers import SyncManager

PATIENCE = 0.5  # seconds
FOREVER = 3600


# The work of the process that is killed.


def hold(lock, ready):
    lock.acquire()
    ready.send("I have it")
    time.sleep(FOREVER)


def arrive_never(barrier, ready):
    ready.send("I am a party")
    time.sleep(FOREVER)


def wait_for(event, ready):
    ready.send("I am going to wait")
    event.wait()


def wait_on(condition, ready):
    ready.send("I am going to wait")
    with condition:
        condition.wait()


def wait_in_get(queue, ready):
    ready.send("I am going to wait")
    queue.get()


def put_much(queue, ready):
    queue.put(bytes(1 << 20))
    ready.send("it is on its way")
    time.sleep(FOREVER)


def take_one(queue, ready):
    queue.get()
    ready.send("I have it")
    time.sleep(FOREVER)


def send_one(connection, ready):
    connection.send(1)
    ready.send("I have sent it")
    time.sleep(FOREVER)


def assign(dictionary, ready):
    dictionary[1] = 5
    ready.send("it is there")
    time.sleep(FOREVER)


# Runs `victim` in a process, and kills it when `is_inside`
# is true. That function reads private attributes.
def run_and_kill(victim, thing, is_inside=lambda: True):
    here, there = Pipe(duplex=False)
    process = Process(target=victim, args=(thing, there))
    process.start()
    here.recv()
    while not is_inside():
        time.sleep(0.001)
    process.kill()
    process.join()


# Whether a process sleeps until the condition notifies it.
def has_sleepers(condition):
    return condition._sleeping_count.get_value() > 0


# Whether a process has the lock.
def is_taken(lock):
    return lock._semlock._is_zero()


# What another process does afterwards.


def take(lock):
    lock.acquire()


def arrive(barrier):
    barrier.wait()


def set_it(event):
    event.set()


def notify(condition):
    with condition:
        condition.notify()


def get_one(queue):
    queue.get()


def put_one(queue):
    queue.put(1)


def join_it(queue):
    queue.join()


def receive_two(connection):
    connection.recv()
    connection.recv()


def tell(name, step, thing):
    other = Process(target=step, args=(thing,))
    other.start()
    other.join(PATIENCE)
    if other.exitcode is None:
        other.kill()
        print(name, "waits forever")
    else:
        assert other.exitcode == 0, "it failed"
        print(name, "goes on")


if __name__ == "__main__":
    for name, lock in [
        ("Lock.acquire", Lock()),
        ("RLock.acquire", RLock()),
        ("Semaphore.acquire", Semaphore(1)),
        ("Value.acquire", Value("q", 0)),
        ("Array.acquire", Array("q", 2)),
    ]:
        run_and_kill(hold, lock)
        tell(name, take, lock)

    event = Event()
    sleeps = lambda: has_sleepers(event._cond)
    run_and_kill(wait_for, event, sleeps)
    tell("Event.set", set_it, event)

    condition = Condition()
    sleeps = lambda: has_sleepers(condition)
    run_and_kill(wait_on, condition, sleeps)
    tell("Condition.notify", notify, condition)

    barrier = Barrier(2)
    run_and_kill(arrive_never, barrier)
    tell("Barrier.wait", arrive, barrier)

    queue = Queue()
    waits = lambda: is_taken(queue._rlock)
    run_and_kill(wait_in_get, queue, waits)
    queue.put(1)
    tell("Queue.get", get_one, queue)

    # Nobody takes it, so only a part of it fits.
    queue = Queue()
    writes = lambda: is_taken(queue._wlock)
    run_and_kill(put_much, queue, writes)
    tell("Queue.put", put_one, queue)

    queue = JoinableQueue()
    queue.put(1)
    run_and_kill(take_one, queue)
    tell("JoinableQueue.join", join_it, queue)

    # This process has a copy of both ends.
    here, there = Pipe()
    run_and_kill(send_one, there)
    tell("Connection.recv", receive_two, here)

    # With a port: a killed manager would leave a file.
    with SyncManager(("127.0.0.1", 0)) as manager:
        dictionary = manager.dict()
        run_and_kill(assign, dictionary)
        value = dictionary[1]
        print("dict.get goes on, the value:", value)
        manager._process.kill()
        manager._process.join()
        try:
            dictionary[1]
        except (EOFError, OSError):
            print("dict.get is an error")
