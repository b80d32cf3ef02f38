"""A value that nests 2,000 levels deep."""

import sys
from multiprocessing import Pool

# pickle calls itself for each level.
sys.setrecursionlimit(10_000)


def depth(chain):
    levels = 0
    while chain is not None:
        [chain] = chain
        levels += 1
    return levels


if __name__ == "__main__":
    chain = None
    for _ in range(2000):
        chain = [chain]
    with Pool(2) as pool:
        print(pool.apply(depth, (chain,)), "levels")
