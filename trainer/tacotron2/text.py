"""Text as numbers: one symbol a character, the same table for ever, so that a checkpoint reads what it was trained on."""

from __future__ import annotations

import re
import unicodedata

import torch
from torch import Tensor

from ...core.errors import UsageError

PADDING, END = "_", "~"
SYMBOLS = PADDING + END + " abcdefghijklmnopqrstuvwxyz'.,;:!?-\"()"
IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": ".", "\t": " "})


def cleaned(text: str) -> str:
    """Lower case, one space between words, typographic marks and accents replaced by plain ones.

    >>> cleaned("Ça va —  “fine”")
    'ca va - "fine"'
    """
    plain = unicodedata.normalize("NFKD", text.translate(PLAIN)).lower()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"\s+", " ", plain).strip()


def unknown_characters(text: str) -> list[str]:
    """Characters that have no symbol, each once, in order.

    >>> unknown_characters("5 cats & a dog")
    ['5', '&']
    """
    found = (letter for letter in cleaned(text) if letter not in IDS or letter in (PADDING, END))
    return list(dict.fromkeys(found))


def tokens_of(text: str) -> Tensor:
    """The symbols' numbers (N), the end mark last; UsageError for text that cannot be spoken."""
    strange = unknown_characters(text)
    if strange:
        raise UsageError(
            f"{text[:60]!r} has characters that the model does not know: {' '.join(strange)}",
            "write numbers and signs as words, or put them so into the third column of metadata.csv",
        )
    plain = cleaned(text)
    if not plain:
        raise UsageError("there is no text to speak", 'smart-tuner synthesize CHECKPOINT "some words" out.wav')
    return torch.tensor([IDS[letter] for letter in plain + END])
