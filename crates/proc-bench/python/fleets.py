"""Runs the workloads of fleets with a Python library: answers requests, each a line of JSON.

Usage: fleets.py CONTENDER

Each request has a fleet of its own, which is made before the clock starts and ended after it has
stopped: an idle fleet would disturb other contenders.
"""

import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
# Processes that these libraries start must find this interpreter's programs, and module `tasks`.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.environ["PYTHONPATH"] = HERE

import tasks
from tasks import LARGE
from workloads import Unable, serve, timed


class Ray:
    def __init__(self):
        os.environ["RAY_AUTH_MODE"] = "disabled"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
        from ray.util.multiprocessing import Pool

        self.ray, self.make, self.version = ray, Pool, f"ray {ray.__version__}"

    def open(self, workers):
        self.ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        return self.make(workers)

    def map(self, pool, function, inputs, chunksize=None):
        return pool.map(function, inputs, chunksize)

    def apply(self, pool, function, argument):
        return pool.apply(function, (argument,))

    def close(self, pool):
        pool.terminate()
        pool.join()
        self.ray.shutdown()


class Dask:
    def __init__(self):
        import distributed

        self.distributed, self.version = distributed, f"distributed {distributed.__version__}"

    def open(self, workers):
        return self.distributed.Client(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        )

    def map(self, client, function, inputs, chunksize=None):
        # Dask has no chunks. With pure=False, it does not look up earlier results.
        return client.gather(client.map(function, inputs, pure=False))

    def apply(self, client, function, argument):
        return client.submit(function, argument, pure=False).result()

    def close(self, client):
        client.cluster.close()
        client.close()


class Mpi4py:
    def __init__(self):
        for name in "PRTE_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT":
            os.environ[name] = os.environ[f"{name}_CONFIRM"] = "1"
        os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        import mpi4py
        from mpi4py.futures import MPIPoolExecutor

        self.make, self.version = MPIPoolExecutor, f"mpi4py {mpi4py.__version__}"

    def open(self, workers):
        pool = self.make(workers, path=[HERE], main=False)
        pool.bootup()
        return pool

    def map(self, pool, function, inputs, chunksize=None):
        return list(pool.map(function, inputs, chunksize=chunksize or 1))

    def apply(self, pool, function, argument):
        return pool.submit(function, argument).result()

    def close(self, pool):
        pool.shutdown()


def run(lib, request):
    workload, count = request["workload"], request["tasks"]
    pool = lib.open(request["workers"])
    try:
        lib.map(pool, tasks.increment, range(100))  # some libraries start their workers only now
        # The buffers are different, because pickle would send the same object once a chunk.
        buffers = [bytes([i % 256]) * LARGE for i in range(count if workload == "fleet-large" else 0)]
        once = {
            "fleet-trip": lambda: lib.apply(pool, tasks.increment, 1),
            "fleet-trip-awake": lambda: lib.apply(pool, tasks.increment, 1),
            "fleet-tiny": lambda: lib.map(pool, tasks.increment, range(count)),
            "fleet-chunksize-1": lambda: lib.map(pool, tasks.increment, range(count), 1),
            "fleet-large": lambda: lib.map(pool, tasks.give_back, buffers),
            "fleet-growth": lambda: lib.map(pool, tasks.wait, range(count)),
        }.get(workload)
        if once is None:
            raise Unable
        return timed(request["repetitions"], once, warm_up=workload.startswith("fleet-trip"))
    finally:
        lib.close(pool)


if __name__ == "__main__":
    serve(lambda name: {"ray": Ray, "dask": Dask, "mpi4py": Mpi4py}[name](), run)
