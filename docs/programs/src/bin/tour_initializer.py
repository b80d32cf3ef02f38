"""Something that each worker makes once."""

from multiprocessing import Pool

# The initializer sets this global. Each worker has its own,
# and the one of the parent stays empty.
table = {}


def load(words):
    global table
    table = {word: len(word) for word in words}


def look_up(word):
    return table[word]


if __name__ == "__main__":
    # Each worker calls load(words) once.
    words = ["one", "two", "three"]
    with Pool(2, load, (words,)) as pool:
        lengths = pool.map(look_up, words)
        print(lengths)
