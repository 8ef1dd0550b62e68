"""alignment_score (0..1): whether attention walks the text once, in order, completely and in focus; and text_use."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment_score(attention: Tensor) -> float:
    """One utterance, attention (T, N) under teacher forcing with padding cut: half of focus plus locality, times order,
    times completeness. Focus alone (FastSpeech's focus rate, arXiv 1905.09263) is 1 when stuck on one token.

    >>> round(alignment_score(torch.eye(12)), 3), round(alignment_score(torch.eye(12).flip(0)), 3)
    (1.0, 0.0)
    """
    steps, tokens = attention.shape
    if steps == 0 or tokens == 0:
        return 0.0
    places = torch.arange(tokens, dtype=attention.dtype)
    path = attention.argmax(1)
    focus = attention.max(1).values.mean()
    near = (places.unsqueeze(0) - path.unsqueeze(1)).abs() <= 1
    local = (attention * near).sum(1).mean()
    centre = attention @ places
    backward = (centre[:-1] - centre[1:]).clamp_min(0).sum()
    monotone = 1 - (backward / max(tokens - 1, 1)).clamp_max(1)
    complete = near.any(0).float().mean()
    return float(0.5 * (focus + local) * monotone * complete)


def text_use(val_mel: float, val_mel_shuffled: float) -> float:
    """How much worse the mels get with another utterance's text: 0 means that the text is not read."""
    return (val_mel_shuffled - val_mel) / val_mel if val_mel > 0 else 0.0
