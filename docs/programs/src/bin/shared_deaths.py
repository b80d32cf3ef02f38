"""What becomes of an object when its process is killed."""

import time
from multiprocessing import (
    Array,
    Barrier,
    Condition,
    Event,
    Lock,
    Pipe,
    Process,
    RLock,
    Semaphore,
    Value,
)

PATIENCE = 0.5  # seconds
FOREVER = 3600


# What the process does that is killed.


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


# Runs `victim` in a process, and kills it. Nothing public
# tells that a process sleeps until `condition` notifies it.
def run_and_kill(victim, thing, condition=None):
    here, there = Pipe(duplex=False)
    process = Process(target=victim, args=(thing, there))
    process.start()
    here.recv()
    sleepers = condition and condition._sleeping_count
    while sleepers and sleepers.get_value() == 0:
        time.sleep(0.001)
    process.kill()
    process.join()


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
    run_and_kill(wait_for, event, event._cond)
    tell("Event.set", set_it, event)

    condition = Condition()
    run_and_kill(wait_on, condition, condition)
    tell("Condition.notify", notify, condition)

    barrier = Barrier(2)
    run_and_kill(arrive_never, barrier)
    tell("Barrier.wait", arrive, barrier)
