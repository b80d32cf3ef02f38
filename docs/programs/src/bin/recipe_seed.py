"""Random numbers: the same ones again, or fresh ones."""

import os
import random
from multiprocessing import Pool


def draw(seed):
    return random.Random(seed).getrandbits(64)


def draw_all(pool, seed):
    # Each task has a seed of its own.
    seeds = [f"{seed}, {i}" for i in range(100)]
    return pool.map(draw, seeds)


if __name__ == "__main__":
    with Pool(4) as pool:
        calls = [("seed 7", 7), ("no seed", None)]
        for name, seed in calls:
            first = draw_all(pool, seed or os.urandom(8))
            again = draw_all(pool, seed or os.urandom(8))
            same = len(set(first) & set(again))
            print(f"{name}: {same} of 100 again")
