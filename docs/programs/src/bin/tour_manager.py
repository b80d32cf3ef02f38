"""A process that owns a table, and others that use it."""

from multiprocessing import Manager, Process


# The manager starts a process that owns the dictionary. The
# others have proxies.


def measure(lengths, word):
    # One message to the owner, and one back.
    lengths[word] = len(word)


if __name__ == "__main__":
    # The owner ends at the end of the block.
    with Manager() as manager:
        lengths = manager.dict()
        children = []
        for word in ["one", "three"]:
            args = (lengths, word)
            child = Process(target=measure, args=args)
            child.start()
            children.append(child)
        for child in children:
            child.join()

        # Ask the owner.
        for word in ["one", "two", "three"]:
            print(word, lengths.get(word, 0))
