"""Names that different frameworks give to one series: `val_loss`, `eval_loss`, `val/loss`, …"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

SHIPPED: Mapping[str, tuple[str, ...]] = {
    "val_loss": (
        "eval_loss",
        "val/loss",
        "eval/loss",
        "validation_loss",
        "validation/loss",
        "valid_loss",
        "valid/loss",
        "dev_loss",
        "dev/loss",
        "loss/val",
        "loss/eval",
        "loss/validation",
        "Loss/val",
        "Loss/validation",
        "val_loss_epoch",
        "val/loss_epoch",
        "epoch_val_loss",
    ),
    "train_loss": (
        "train/loss",
        "training_loss",
        "training/loss",
        "loss/train",
        "loss/training",
        "Loss/train",
        "train_loss_epoch",
        "train/loss_epoch",
        "epoch_loss",
        "loss",
    ),
    "val_accuracy": (
        "val_acc",
        "eval_accuracy",
        "eval_acc",
        "val/accuracy",
        "val/acc",
        "eval/accuracy",
        "eval/acc",
        "validation_accuracy",
        "validation/accuracy",
        "valid_accuracy",
        "valid_acc",
        "accuracy/val",
        "acc/val",
        "Accuracy/val",
    ),
    "train_accuracy": (
        "train_acc",
        "train/accuracy",
        "train/acc",
        "accuracy/train",
        "acc/train",
        "Accuracy/train",
        "accuracy",
        "acc",
    ),
    "val_perplexity": (
        "val_ppl",
        "eval_perplexity",
        "eval_ppl",
        "val/perplexity",
        "val/ppl",
        "eval/perplexity",
        "validation_perplexity",
    ),
    "wer": ("val_wer", "eval_wer", "val/wer", "eval/wer", "word_error_rate"),
    "mel_loss": ("val_mel_loss", "val/mel_loss", "loss/mel", "mel/loss"),
    "gate_loss": ("val_gate_loss", "val/gate_loss", "loss/gate", "gate/loss", "stop_loss"),
    "alignment_score": ("val_alignment_score", "attention_alignment_score", "alignment/score", "attention_score"),
    "audio_quality_score": ("audio_quality", "mos", "utmos", "val/audio_quality"),
    "learning_rate": ("lr", "train/learning_rate", "train/lr", "learning-rate", "optim/lr"),
}
"""A name, and the others that it goes by, in the order in which they are looked for."""


class Aliases:
    """Which names mean one series. `names` gives for a name the others; no name may stand in two lists.

    >>> aliases = Aliases({"val_loss": ["eval_loss", "val/loss"]})
    >>> aliases.canonical("val/loss"), aliases.canonical("wer")
    ('val_loss', 'wer')
    >>> [aliases.rank("eval_loss", name) for name in ("eval_loss", "val_loss", "val/loss", "wer")]
    [0, 1, 2, None]
    >>> aliases.find("val_loss", ["step", "val/loss", "eval_loss"])
    'eval_loss'
    """

    def __init__(self, names: Mapping[str, Sequence[str]] = SHIPPED) -> None:
        self._groups = {name: (name, *others) for name, others in names.items()}
        self._canonical = {one: name for name, group in self._groups.items() for one in group}

    def canonical(self, series: str) -> str:
        """The one name under which a series is compared with others of its kind; its own where it is in no list."""
        return self._canonical.get(series, series)

    def names(self, wanted: str) -> tuple[str, ...]:
        """What `wanted` may be logged as, the likeliest first: its exact name, then its list."""
        group = self._groups.get(self.canonical(wanted), ())
        return (wanted, *(name for name in group if name != wanted))

    def rank(self, wanted: str, series: str) -> int | None:
        """Which choice `series` is for `wanted`, 0 being the best; None where they are not one thing."""
        if series == wanted:
            return 0
        if wanted not in self._canonical or self._canonical.get(series) != self._canonical[wanted]:
            return None
        return self.names(wanted).index(series)

    def find(self, wanted: str, logged: Iterable[str]) -> str | None:
        """The best choice for `wanted` among the series `logged`."""
        ranked = [(rank, series) for series in logged if (rank := self.rank(wanted, series)) is not None]
        return min(ranked)[1] if ranked else None

    def nearest(self, wanted: str, logged: Iterable[str]) -> str | None:
        """The series that was perhaps meant by `wanted`, though no list says so."""
        spelled = {_plain(series): series for series in logged}
        for name in self.names(wanted):
            near = difflib.get_close_matches(_plain(name), list(spelled), n=1, cutoff=0.7)
            if near:
                return spelled[near[0]]
        return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


ALIASES = Aliases()
"""The shipped ones."""


def merged(stated: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The shipped lists with those that a person wrote in their place; a name that a person put into a list leaves the
    shipped ones, and an empty list means that a series goes by its own name only.

    >>> merged({"my_loss": ["eval_loss"]})["val_loss"][:2]
    ('val/loss', 'eval/loss')
    """
    taken = {*stated, *(name for others in stated.values() for name in others)}
    kept = {name: tuple(one for one in others if one not in taken) for name, others in SHIPPED.items() if name not in taken}
    return kept | {name: tuple(others) for name, others in stated.items()}


def listed_twice(names: Mapping[str, Sequence[str]]) -> tuple[str, str, str] | None:
    """(name, list, other list) of the first name that stands in two lists of a person's."""
    seen: dict[str, str] = {}
    for head, others in names.items():
        for name in (head, *others):
            if name in seen:
                return name, seen[name], head
            seen[name] = head
    return None
