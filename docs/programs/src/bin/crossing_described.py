"""Values of two kinds in one list."""

from multiprocessing import Pool


# A setting is a number or a list of names.
def size(setting):
    match setting:
        case float():
            return 1
        case list():
            return len(setting)


if __name__ == "__main__":
    settings = [0.5, ["red", "green"]]
    with Pool(2) as pool:
        print(pool.map(size, settings))
