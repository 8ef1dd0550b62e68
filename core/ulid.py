"""ULIDs: 26 characters that sort by the time they were minted (https://github.com/ulid/spec)."""

from __future__ import annotations

import os

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(now: float, entropy: bytes | None = None) -> str:
    """A ULID for `now` (seconds since 1970); `entropy` is 10 bytes, random unless given.

    >>> ulid(1469918176.385, bytes(10))
    '01ARYZ6S410000000000000000'
    """
    noise = os.urandom(10) if entropy is None else entropy
    number = (round(now * 1000) << 80) | int.from_bytes(noise, "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
