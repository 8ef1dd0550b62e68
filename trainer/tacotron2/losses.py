"""The losses, over what is inside only and as sums with their counts, so that ranks can be added up exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Batch, Output, inside_of
from .settings import Recipe


class Losses(NamedTuple):
    """Scalars: total is what is trained on; mel, gate and attention are its parts without weights."""

    total: Tensor
    mel: Tensor
    gate: Tensor
    attention: Tensor

    @property
    def loss(self) -> Tensor:
        """What train_loss and val_loss say: mel and gate, the same with and without guidance."""
        return self.mel + self.gate


class Counts(NamedTuple):
    """Values (frames × bands) and decoder steps of a batch, over all ranks."""

    values: float
    steps: float


def counts_of(batch: Batch, r: int) -> Counts:
    """How much a batch weighs."""
    return Counts(float(batch.frame_counts.sum()) * batch.mels.shape[2], float(((batch.frame_counts + r - 1) // r).sum()))


def losses(output: Output, batch: Batch, recipe: Recipe, counts: Counts) -> Losses:
    """Sums over this rank's batch divided by `counts`."""
    r, device = recipe.reduction_factor, output.after.device
    inside = inside_of(batch.frame_counts, batch.mels.shape[1], device).unsqueeze(2)
    length = batch.mels.shape[1]
    error = (output.before[:, :length] - batch.mels).square() + (output.after[:, :length] - batch.mels).square()
    mel = (error * inside).sum() / counts.values
    steps = ((batch.frame_counts + r - 1) // r).to(device)
    walked = inside_of(steps, output.gates.shape[1], device)
    target = torch.arange(output.gates.shape[1], device=device) >= (steps - 1).unsqueeze(1)
    weight = torch.tensor(recipe.gate_pos_weight, device=device)
    raw = F.binary_cross_entropy_with_logits(output.gates, target.float(), pos_weight=weight, reduction="none")
    gate = (raw * walked).sum() / counts.steps
    guide = guidance(steps, batch.token_counts.to(device), output.attention.shape, recipe.guided_attention_width)
    attention = (output.attention * guide * walked.unsqueeze(2)).sum() / counts.steps
    return Losses(mel + gate + recipe.guided_attention_weight * attention, mel, gate, attention)


def guidance(steps: Tensor, tokens: Tensor, shape: torch.Size, width: float) -> Tensor:
    """(B, T, N): how far from the diagonal a place is, 0 to 1 (Tachibana et al. 2017, arXiv 1710.08969, eq. 4)."""
    at_step = torch.arange(shape[1], device=steps.device) / steps.clamp_min(1).unsqueeze(1)
    at_token = torch.arange(shape[2], device=steps.device) / tokens.clamp_min(1).unsqueeze(1)
    distance = at_token.unsqueeze(1) - at_step.unsqueeze(2)
    return 1 - torch.exp(-distance.square() / (2 * width * width))
