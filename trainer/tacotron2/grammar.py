"""Sentences for a synthetic dataset: an own list of some fifty words and a few patterns, three to five words each."""

from __future__ import annotations

import random

WORDS = {
    "who": ("the miller", "a sailor", "the baker", "my sister", "our teacher", "a farmer", "the doctor", "her uncle"),
    "does": ("finds", "paints", "carries", "sells", "cleans", "follows", "hides", "mends"),
    "what": ("bread", "silver", "apples", "paper", "candles", "water", "honey", "wool"),
    "how": ("slowly", "often", "gladly", "again", "outside", "today", "alone", "early"),
    "order": ("bring", "leave", "open", "count", "send"),
    "which": ("seven", "old", "green", "heavy", "small", "warm"),
    "things": ("boxes", "windows", "letters", "horses", "bottles", "garden chairs"),
}
PATTERNS = (
    ("who", "does", "what"),
    ("who", "does", "what", "how"),
    ("order", "which", "things"),
    ("order", "which", "things", "how"),
    ("who", "does", "which", "things"),
)


def sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences in an order that only `seed` decides; fewer where the grammar has no more."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(count * 50):
        if len(found) >= count:
            break
        words = " ".join(rng.choice(WORDS[kind]) for kind in rng.choice(PATTERNS))
        if 3 <= len(words.split()) <= 5:
            found[words] = None
    return list(found)
