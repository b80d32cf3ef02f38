"""Prints the public names of multiprocessing and concurrent.futures: place, tab, name.

A place is a module or a class. docs/names.md has a heading for each.
"""

import concurrent.futures
import importlib
import inspect
import multiprocessing
import multiprocessing.connection
import multiprocessing.managers
import multiprocessing.pool
import multiprocessing.shared_memory
import pkgutil
import types


def show(place, names):
    for name in sorted(names):
        if not name.startswith("_"):
            print(place, name, sep="\t")


def attributes(place, *objects):
    for each in objects:
        show(place, dir(each))


def parameters(place, *functions):
    for function in functions:
        show(place, set(inspect.signature(function).parameters) - {"self"})


def modules():
    top = vars(multiprocessing)
    is_foreign = {
        name
        for name, value in top.items()
        if isinstance(value, types.ModuleType) and not value.__name__.startswith("multiprocessing")
    }
    show("multiprocessing", set(dir(multiprocessing)) - is_foreign)
    show("multiprocessing", multiprocessing.__all__)
    show("multiprocessing", (each.name for each in pkgutil.iter_modules(multiprocessing.__path__)))
    for name in ["queues", "synchronize", "process"]:
        module = importlib.import_module(f"multiprocessing.{name}")
        show("multiprocessing", module.__all__)
    for name in ["pool", "connection", "managers", "dummy"]:
        module = importlib.import_module(f"multiprocessing.{name}")
        show(f"multiprocessing.{name}", module.__all__)
    for name, place in [("sharedctypes", "sharedctypes"), ("shared_memory", "SharedMemory")]:
        module = importlib.import_module(f"multiprocessing.{name}")
        show(place, module.__all__)
    show("concurrent.futures", concurrent.futures.__all__)
    attributes("concurrent.futures", concurrent.futures)


def classes():
    context = multiprocessing.get_context("fork")  # no other process is started for it
    attributes("multiprocessing", context)
    parameters("multiprocessing", context.set_forkserver_preload)

    attributes("Process", context.Process())
    parameters("Process", multiprocessing.Process)

    pool = multiprocessing.pool
    attributes("Pool", pool.Pool, pool.ThreadPool)
    calls = ["map", "map_async", "starmap", "imap", "imap_unordered", "apply", "apply_async"]
    parameters("Pool", context.Pool, pool.Pool, *(getattr(pool.Pool, name) for name in calls))
    attributes("AsyncResult", pool.AsyncResult, pool.MapResult)
    attributes("IMapIterator", pool.IMapIterator, pool.IMapUnorderedIterator)
    parameters("IMapIterator", pool.IMapIterator.next)

    attributes("Queue", context.Queue(), context.JoinableQueue(), context.SimpleQueue())
    parameters("Queue", context.Queue)
    attributes("Connection", *context.Pipe())
    parameters("Connection", context.Pipe)
    listener = multiprocessing.connection.Listener
    attributes("Listener", listener)
    parameters("Listener", listener)

    attributes("Lock", context.Lock())
    attributes("RLock", context.RLock())
    attributes("Semaphore", context.Semaphore())
    attributes("BoundedSemaphore", context.BoundedSemaphore())
    attributes("Condition", context.Condition())
    attributes("Event", context.Event())
    attributes("Barrier", context.Barrier(1))
    parameters("Barrier", context.Barrier)

    attributes("Value", context.Value("i", 0), context.RawValue("i", 0))
    parameters("Value", context.Value)
    attributes("Array", context.Array("i", 1), context.Array("c", 1), context.RawArray("i", 1))
    parameters("Array", context.Array)
    memory = multiprocessing.shared_memory
    attributes("SharedMemory", memory.SharedMemory)
    parameters("SharedMemory", memory.SharedMemory)
    attributes("ShareableList", memory.ShareableList)
    parameters("ShareableList", memory.ShareableList)


def managers():
    module = multiprocessing.managers
    attributes("BaseManager", module.BaseManager)
    attributes("SyncManager", module.SyncManager)
    attributes("SharedMemoryManager", module.SharedMemoryManager)
    attributes("DictProxy", module.DictProxy)
    attributes("ListProxy", module.ListProxy)
    if hasattr(module, "SetProxy"):  # since 3.14
        attributes("SetProxy", module.SetProxy)
    attributes("DictProxy", module.ValueProxy, module.NamespaceProxy, module.IteratorProxy)
    inside = {"AutoProxy", "BaseProxy", "RebuildProxy"}
    show("DictProxy", {name for name in dir(module) if name.endswith("Proxy")} - inside)
    attributes("Lock", module.AcquirerProxy)
    attributes("Condition", module.ConditionProxy)
    attributes("Event", module.EventProxy)
    attributes("Barrier", module.BarrierProxy)
    attributes("Pool", module.PoolProxy)


def futures():
    module = concurrent.futures
    attributes("Executor", module.Executor)
    parameters("Executor", module.Executor.map, module.Executor.shutdown)
    attributes("ProcessPoolExecutor", module.ProcessPoolExecutor)
    parameters("ProcessPoolExecutor", module.ProcessPoolExecutor)
    attributes("ProcessPoolExecutor", module.ThreadPoolExecutor)
    parameters("ProcessPoolExecutor", module.ThreadPoolExecutor)
    attributes("Future", module.Future)


if __name__ == "__main__":
    modules()
    classes()
    managers()
    futures()
