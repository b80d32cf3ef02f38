"""Runs the workloads with a Python library: answers requests, each a line of JSON.

Usage: workloads.py CONTENDER
"""

import concurrent.futures
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import tasks
from tasks import LARGE, SHARED, TABLE

Q6 = Path(__file__).parents[3] / "docs/python/q6_four_processes.py"

class Unable(Exception):
    """The library cannot do the workload."""


class Multiprocessing:
    def __init__(self, method):
        self.version = f"{platform.python_implementation()} {platform.python_version()}"
        self.context = multiprocessing.get_context(method)
        self.forks = method == "fork"
        self.starts_at_once = True

    def start_join(self):
        process = self.context.Process(target=tasks.nothing)
        process.start()
        process.join()

    def open(self, workers, initializer=None, initargs=()):
        return self.context.Pool(workers, initializer, initargs)

    def map(self, pool, function, inputs, chunksize=None):
        return pool.map(function, inputs, chunksize)

    def apply(self, pool, function, argument):
        return pool.apply(function, (argument,))

    def close(self, pool):
        pool.terminate()
        pool.join()

    def pids(self, pool):
        return [process.pid for process in pool._pool]


class Contender:
    """What most libraries have in common: no single processes, and workers that start on demand."""

    forks = False
    starts_at_once = False

    def start_join(self):
        raise Unable


class Executor(Contender):
    def __init__(self, make, version, forks):
        self.make, self.version, self.forks = make, version, forks

    def open(self, workers, initializer=None, initargs=()):
        return self.make(workers, initializer=initializer, initargs=initargs)

    def map(self, pool, function, inputs, chunksize=None):
        return list(pool.map(function, inputs, chunksize=chunksize or 1))

    def apply(self, pool, function, argument):
        return pool.submit(function, argument).result()

    def close(self, pool):
        pool.shutdown(wait=True)

    def pids(self, pool):
        return list(pool._processes)


class Mpire(Contender):
    forks = True

    def __init__(self):
        import mpire

        self.make, self.version = mpire.WorkerPool, f"mpire {metadata.version('mpire')}"

    def open(self, workers, initializer=None, initargs=()):
        self.initializer = initializer
        return self.make(workers, keep_alive=True)

    def map(self, pool, function, inputs, chunksize=None):
        return pool.map(function, inputs, chunk_size=chunksize, worker_init=self.initializer)

    def apply(self, pool, function, argument):
        return pool.apply(function, (argument,))

    def close(self, pool):
        pool.stop_and_join()
        pool.terminate()

    def pids(self, pool):
        return [worker.pid for worker in pool._workers]


class Joblib(Contender):
    def __init__(self):
        import joblib
        from joblib.externals.loky import reusable_executor

        self.joblib, self.version = joblib, f"joblib {joblib.__version__}"
        self.executor = lambda: reusable_executor._executor

    def open(self, workers, initializer=None, initargs=()):
        if initializer:
            raise Unable
        return self.joblib.Parallel(n_jobs=workers).__enter__()

    def map(self, pool, function, inputs, chunksize=None):
        pool.batch_size = chunksize or "auto"
        return pool(self.joblib.delayed(function)(x) for x in inputs)

    def apply(self, pool, function, argument):
        return pool([self.joblib.delayed(function)(argument)])[0]

    def close(self, pool):
        pool.__exit__(None, None, None)
        if self.executor():
            self.executor().shutdown(wait=True)  # otherwise the next pool would use these workers

    def pids(self, pool):
        return list(self.executor()._processes)


def contender(name):
    if name.startswith("cpython-"):
        return Multiprocessing(name.removeprefix("cpython-"))
    if name == "futures":
        version = f"{platform.python_implementation()} {platform.python_version()}"
        forks = multiprocessing.get_start_method() == "fork"
        return Executor(concurrent.futures.ProcessPoolExecutor, version, forks)
    if name == "loky":
        import loky

        return Executor(loky.ProcessPoolExecutor, f"loky {loky.__version__}", forks=False)
    return {"mpire": Mpire, "joblib": Joblib}[name]()


def timed(repetitions, once, warm_up=True):
    """Returns the seconds of each repetition. With `warm_up`, one before them does not count."""
    if warm_up:
        once()
    samples = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        once()
        samples.append(time.perf_counter() - begin)
    return samples


def pool_of_its_own(lib, request, initializer=None):
    def once():
        pool = lib.open(request["workers"], initializer)
        assert len(lib.map(pool, tasks.increment, range(request["tasks"]))) == request["tasks"]
        lib.close(pool)

    return timed(request["repetitions"], once)


def up(lib, request):
    if not lib.starts_at_once:
        raise Unable
    samples = []
    for repetition in range(request["repetitions"] + 1):
        begin = time.perf_counter()
        pool = lib.open(request["workers"])
        if repetition > 0:
            samples.append(time.perf_counter() - begin)
        lib.close(pool)
    return samples


def shared(lib, request):
    """Forked workers have a copy of the array. CPython's other workers get shared memory."""
    if not lib.forks and not isinstance(lib, Multiprocessing):
        raise Unable
    tasks.array = memoryview(b"\1" * SHARED)

    def once():
        shared = None if lib.forks else SharedMemory(create=True, size=SHARED)
        if shared:
            shared.buf[:SHARED] = tasks.array
            pool = lib.open(request["workers"], tasks.attach, (shared.name,))
        else:
            pool = lib.open(request["workers"])
        pages = lib.map(pool, tasks.read_pages, range(request["tasks"]))
        assert pages == [-(-SHARED // 4096)] * request["tasks"]
        lib.close(pool)
        if shared:
            shared.close()
            shared.unlink()

    samples = timed(request["repetitions"], once)
    tasks.array = None
    return samples


def pss(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise Unable


def memory_of_workers(lib, pool, request):
    lib.map(pool, tasks.increment, range(request["workers"]), 1)
    return [pss(pid) for pid in lib.pids(pool)]


def in_pool(lib, pool, request):
    """Runs a workload in a pool that has started."""
    workload, count = request["workload"], request["tasks"]
    # The buffers are different, because pickle would send the same object once a chunk.
    buffers = [bytes([i % 256]) * LARGE for i in range(count if workload == "send" else 0)]
    numbers, chunksize = range(count), 1 if workload == "chunksize-1" else None
    once = {
        "trip": lambda: lib.apply(pool, tasks.increment, 1),
        "trip-awake": lambda: lib.apply(pool, tasks.increment, 1),
        "tiny": lambda: lib.map(pool, tasks.increment, numbers),
        "chunksize-1": lambda: lib.map(pool, tasks.increment, numbers, chunksize),
        "skewed": lambda: lib.map(pool, tasks.spin, tasks.skewed(count)),
        "send": lambda: lib.map(pool, len, buffers),
        "receive": lambda: lib.map(pool, tasks.make, [LARGE] * count),
        "state": lambda: lib.map(pool, tasks.look_up, [key % TABLE for key in numbers]),
    }.get(workload)
    if workload == "memory":
        return memory_of_workers(lib, pool, request)
    if once is None:
        raise Unable
    return timed(request["repetitions"], once)


def run(lib, request):
    workload = request["workload"]
    if workload == "start":
        return timed(request["repetitions"], lib.start_join)
    if workload in ("pool", "large"):
        return pool_of_its_own(lib, request)
    if workload == "initializer":
        return pool_of_its_own(lib, request, tasks.initialize)
    if workload == "up":
        return up(lib, request)
    if workload == "shared":
        return shared(lib, request)
    if workload == "program":
        if not (isinstance(lib, Multiprocessing) and lib.forks):
            raise Unable
        command = [sys.executable, Q6]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": True}
        return timed(request["repetitions"], lambda: subprocess.run(command, **quiet))
    if workload == "cpu":
        raise Unable  # the same computation would measure the interpreter
    pool = lib.open(request["workers"], tasks.fill if workload == "state" else None)
    try:
        return in_pool(lib, pool, request)
    finally:
        lib.close(pool)


def serve(contender, run):
    """Answers requests as the contender that the command line names, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # text that a library prints must not look like an answer

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        lib = contender(sys.argv[1])
    except ImportError as error:
        say({"absent": str(error)})
        return
    say({"version": lib.version})
    for line in sys.stdin:
        try:
            say({"samples": run(lib, json.loads(line))})
        except Unable:
            say("unable")
        except Exception as error:
            say({"failure": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    serve(contender, run)
