"""JSON of any shape, as arguments and results."""

import json
from multiprocessing import Pool


def pay(order):
    order["paid"] = True
    return order


if __name__ == "__main__":
    text = '[{"tea": 2}, {"cup": {"size": 3}}]'
    orders = json.loads(text)
    with Pool(2) as pool:
        for order in pool.map(pay, orders):
            text = json.dumps(order, sort_keys=True)
            print(text.replace(" ", ""))
