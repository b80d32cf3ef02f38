"""Environment, directory and stderr of the workers."""

import os
from multiprocessing import Pool


# The initializer has changed the worker.
def look(name):
    os.write(2, b"a warning that nobody reads\n")
    return os.environ[name], os.getcwd()


def begin(variables, directory):
    os.environ.update(variables)
    os.chdir(directory)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)


if __name__ == "__main__":
    initargs = ({"STAGE": "test"}, "/")
    with Pool(2, begin, initargs) as pool:
        value, directory = pool.apply(look, ("STAGE",))
    print(f"STAGE is {value}, in {directory}")
