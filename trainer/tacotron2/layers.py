"""Layers that do not see padding: a masked convolution with a batch norm over what is inside, and a layer-wise checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint


class _SumOverRanks(torch.autograd.Function):  # type: ignore[misc]  # mypy sees no torch
    """A sum over all ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def over_ranks(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks; itself without ranks."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    summed: Tensor = _SumOverRanks.apply(value)
    return summed


class MaskedNorm(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """Batch normalisation of (B, C, T) over the places that are inside, on all ranks together."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, least: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.least = momentum, least
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.again = False

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """`inside` (B, 1, T) is 1 where x counts and 0 on padding."""
        x = x.float()
        if self.training:
            mean, variance = self._measured(x, inside)
        else:
            mean, variance = self.mean, self.variance
        scale = self.weight * torch.rsqrt(variance + self.least)
        return torch.addcmul((self.bias - mean * scale).unsqueeze(1), x, scale.unsqueeze(1))

    def _measured(self, x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * inside
        sums = torch.cat((kept.sum((0, 2)), (kept * x).sum((0, 2)), inside.sum().view(1)))
        sums = over_ranks(sums)
        count, channels = sums[-1], x.shape[1]
        mean = sums[:channels] / count
        variance = (sums[channels:-1] / count - mean.square()).clamp_min(0.0)
        if not self.again:
            with torch.no_grad():
                unbiased = variance * (count / (count - 1).clamp_min(1.0))
                self.mean.lerp_(mean.detach(), self.momentum)
                self.variance.lerp_(unbiased.detach(), self.momentum)
        return mean, variance


class MaskedConvolution(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """mask, convolve, normalise, bend, drop: one block of encoder and postnet over (B, C, T)."""

    def __init__(self, into: int, out: int, kernel: int, bend: Callable[[Tensor], Tensor] | None, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(into, out, kernel, padding=kernel // 2, bias=False)
        self.norm = MaskedNorm(out)
        self.bend, self.dropout = bend, dropout
        gain = nn.init.calculate_gain("relu" if bend is torch.relu else "tanh" if bend is torch.tanh else "linear")
        nn.init.xavier_uniform_(self.convolution.weight, gain)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """The padding of the answer is not zero: whoever uses it masks it."""
        x = self.norm(self.convolution(x * inside), inside)
        if self.bend is not None:
            x = self.bend(x)
        return F.dropout(x, self.dropout, self.training)


def thrifty(layer: nn.Module, wanted: bool, *inputs: Tensor) -> Any:
    """Runs a layer; where `wanted`, it keeps no activations and runs again in the backward pass."""
    if not wanted or not torch.is_grad_enabled():
        return layer(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(layer)

    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _again(layer: nn.Module) -> Iterator[None]:
    """A second pass over the same values leaves the running statistics alone."""
    norms = [one for one in layer.modules() if isinstance(one, MaskedNorm)]
    for norm in norms:
        norm.again = True
    try:
        yield
    finally:
        for norm in norms:
            norm.again = False
