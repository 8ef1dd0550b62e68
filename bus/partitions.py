"""Which partition a key belongs to: Kafka's default partitioner, bit for bit, so that every transport and client agrees."""

from __future__ import annotations

from functools import cache, lru_cache

_SEED, _M, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash of Kafka's Java client, unsigned.

    >>> murmur2(b"foobar") - (1 << 32)
    -790332482
    """
    length = len(data)
    tail = length & ~3
    h = _SEED ^ length
    for at in range(0, tail, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * _M) & _WORD
        k = ((k ^ (k >> 24)) * _M) & _WORD
        h = ((h * _M) & _WORD) ^ k
    if length & 3:
        h = ((h ^ int.from_bytes(data[tail:], "little")) * _M) & _WORD
    h = ((h ^ (h >> 13)) * _M) & _WORD
    return h ^ (h >> 15)


@lru_cache(maxsize=16_384)
def partition_of(key: str, partitions: int) -> int:
    """The partition of `key` among `partitions` >= 1."""
    return 0 if partitions == 1 else (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@cache
def key_of(partition: int, partitions: int) -> str:
    """A key that belongs to this partition: for what concerns a partition and no run."""
    number = 0
    while partition_of(str(number), partitions) != partition:
        number += 1
    return str(number)
