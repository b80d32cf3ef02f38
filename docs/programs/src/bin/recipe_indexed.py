"""Results in any order, each with its input's index."""

from multiprocessing import Pool


def length(task):
    index, word = task
    return index, len(word)


if __name__ == "__main__":
    words = ["one", "two", "three"]
    with Pool(2) as pool:
        tasks = enumerate(words)
        results = pool.imap_unordered(length, tasks)
        for index, number in results:
            print(f"{words[index]}: {number}")
