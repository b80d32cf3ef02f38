"""A function with data: one table for all tasks."""

from functools import partial
from multiprocessing import Pool

# The function has the table as its first argument, and each
# order as its second.


def cost(prices, order):
    item, count = order
    return prices[item] * count


if __name__ == "__main__":
    prices = {"bread": 4, "tea": 3}
    orders = [("tea", 2), ("bread", 1)]
    with Pool(2) as pool:
        print(pool.map(partial(cost, prices), orders))
