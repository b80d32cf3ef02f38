"""Counts the primes below 100,000, in a pool."""

from math import isqrt
from multiprocessing import Pool

# Each task counts the primes among a hundred numbers.
# There are 1,000 tasks.
#
# Python's pool runs them on one machine. The program in
# Rust runs them on one machine, too. With an address, it
# runs them on many.


def is_prime(n):
    if n % 2 == 0:
        return n == 2
    # An odd number has only odd divisors.
    odd = range(3, isqrt(n) + 1, 2)
    return n > 1 and all(n % d for d in odd)


def primes(hundred):
    first = 100 * hundred
    numbers = range(first, first + 100)
    return sum(map(is_prime, numbers))


def main():
    # Python's pool has the workers of one machine.
    with Pool() as pool:
        counts = pool.map(primes, range(1000))
    print(f"{sum(counts)} primes below 100,000")


if __name__ == "__main__":
    main()
