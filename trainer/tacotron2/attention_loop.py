"""The attention LSTM and the location-sensitive attention over all decoder steps, forward and backward, as one function.

Only this part of the decoder has to go step by step. Everything that autograd would do in each step and that can wait is
done once at the end: the products of the recurrent, query and memory gradients. tests hold it against a plain loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor


class LoopWeights(NamedTuple):
    """recurrent (4A, E + A) for [context, hidden] with gates in the order input, forget, output, cell; query (D, A);
    location (D, 2K): the location convolution folded with its linear layer; energy (D)."""

    recurrent: Tensor
    query: Tensor
    location: Tensor
    energy: Tensor


class LoopState(NamedTuple):
    """hidden (B, A), cell (B, A), context (B, E), attention (B, N) of the last step and its sum over all steps."""

    hidden: Tensor
    cell: Tensor
    context: Tensor
    attention: Tensor
    seen: Tensor


def first_state(memory: Tensor, width: int) -> LoopState:
    """The state before the first step, for memory (B, N, E) and an LSTM of `width`."""
    batch, tokens, size = memory.shape
    zero = memory.new_zeros
    return LoopState(zero(batch, width), zero(batch, width), zero(batch, size), zero(batch, tokens), zero(batch, tokens))


def advance(
    gates: Tensor, state: LoopState, memory: Tensor, keys: Tensor, outside: Tensor, weights: LoopWeights
) -> tuple[LoopState, Tensor, Tensor]:
    """One step. gates (B, 4A): the input's share of the gates; memory (B, N, E); keys (B, N, D); outside (B, N) is True on
    padding. The new state, the gates' activations (B, 4A) and the energies' tanh (B, N, D)."""
    width = state.hidden.shape[1]
    gemm = weights.recurrent.dtype
    rest = F.linear(torch.cat((state.context, state.hidden), 1).to(gemm), weights.recurrent)
    gates = gates + rest
    opened = torch.sigmoid(gates[:, : 3 * width])
    fresh = torch.tanh(gates[:, 3 * width :])
    into, keep, out = opened.split(width, 1)
    cell = torch.addcmul(into * fresh, keep, state.cell)
    hidden = out * torch.tanh(cell)
    scores = location_scores(state, weights.location)
    scores += keys
    scores += F.linear(hidden.to(gemm), weights.query).unsqueeze(1)
    bent = scores.tanh_()
    energies = torch.mv(bent.flatten(0, 1), weights.energy).view(outside.shape)
    attention = energies.masked_fill(outside, float("-inf")).softmax(1)
    context = torch.bmm(attention.unsqueeze(1), memory).squeeze(1)
    activations = torch.cat((opened, fresh), 1)
    return LoopState(hidden, cell, context, attention, state.seen + attention), activations, bent


def location_scores(state: LoopState, location: Tensor) -> Tensor:
    """(B, N, D): what the previous attention and all attention so far say about each token."""
    return F.linear(windows(state, location.shape[1] // 2).to(location.dtype), location).float()


def windows(state: LoopState, kernel: int) -> Tensor:
    """(B, N, 2K): around each token the K last attentions, then the K sums of attentions, zero outside."""
    both = torch.stack((state.attention, state.seen), 1)
    return F.pad(both, (kernel // 2, kernel // 2)).unfold(2, kernel, 1).transpose(1, 2).flatten(2)


class AttentionLoop(torch.autograd.Function):  # type: ignore[misc]  # mypy sees no torch
    """(gates (T, B, 4A), memory, keys, outside, *LoopWeights, remember) -> hidden (T, B, A), context (T, B, E),
    attention (T, B, N). `remember` keeps the energies' tanh (T, B, N, D); without it the backward pass computes it again."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, memory: Tensor, keys: Tensor, outside: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        weights, remember = LoopWeights(*rest[:4]), bool(rest[4])
        steps, width = gates.shape[0], weights.query.shape[1]
        state = first_state(memory, width)
        states, activations, bents = [], [], []
        for t in range(steps):
            state, activated, bent = advance(gates[t], state, memory, keys, outside, weights)
            states.append(state)
            activations.append(activated)
            if remember:
                bents.append(bent)
        hidden, cell, context, attention, _ = (torch.stack(column) for column in zip(*states, strict=True))
        ctx.save_for_backward(memory, keys, *weights, hidden, cell, context, attention, torch.stack(activations))
        ctx.bents = bents
        return hidden, context, attention

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        hidden, cell, context, attention, activations = saved[6:]
        weights = LoopWeights(*saved[2:6])
        past = _Past(saved[0], saved[1], weights, hidden, cell, context, attention, activations, ctx.bents)
        ctx.bents = []
        back = _Backward(past, grads)
        for t in reversed(range(len(past.hidden))):
            back.step(t)
        return (*back.results(), None)


class _Past(NamedTuple):
    """What the forward pass left behind, stacked over steps."""

    memory: Tensor
    keys: Tensor
    weights: LoopWeights
    hidden: Tensor
    cell: Tensor
    context: Tensor
    attention: Tensor
    activations: Tensor
    bents: list[Tensor]

    def before(self, t: int) -> LoopState:
        """The state that step t started from; `seen` is left to the caller."""
        if t == 0:
            return first_state(self.memory, self.hidden.shape[2])
        return LoopState(self.hidden[t - 1], self.cell[t - 1], self.context[t - 1], self.attention[t - 1], self.attention[t - 1])


class _Backward:
    """The backward pass: what flows from step t to t - 1, and what is collected for the products at the end."""

    def __init__(self, past: _Past, grads: tuple[Tensor, ...]) -> None:
        self.past, self.grads = past, grads
        weights = past.weights
        self.gates = torch.empty_like(past.activations)
        self.queries = past.hidden.new_empty(*past.hidden.shape[:2], weights.query.shape[0])
        self.contexts = torch.empty_like(past.context)
        self.keys = torch.zeros_like(past.keys)
        self.location = torch.zeros_like(weights.location, dtype=torch.float32)
        self.energy = torch.zeros_like(weights.energy)
        self.seen = past.attention.sum(0)
        end = first_state(past.memory, past.hidden.shape[2])
        self.to_hidden, self.to_cell, self.to_context, self.to_attention, self.to_seen = end

    def step(self, t: int) -> None:
        """Takes the gradients back over step t."""
        past, weights = self.past, self.past.weights
        attention = past.attention[t]
        self.seen = self.seen - attention
        start = past.before(t)._replace(seen=self.seen)
        seen_from = windows(start, weights.location.shape[1] // 2)
        bent = past.bents.pop() if past.bents else self._bent(t, seen_from)
        to_context = self.grads[1][t] + self.to_context
        to_attention = self.grads[2][t] + self.to_attention + self.to_seen
        to_attention = torch.baddbmm(to_attention.unsqueeze(2), past.memory, to_context.unsqueeze(2)).squeeze(2)
        to_energies = attention * (to_attention - (attention * to_attention).sum(1, keepdim=True))
        self.energy += torch.mv(bent.flatten(0, 1).t(), to_energies.flatten())
        to_scores = bent.square_().neg_().add_(1.0).mul_(weights.energy).mul_(to_energies.unsqueeze(2))
        self.keys += to_scores
        to_query = to_scores.sum(1)
        self.queries[t], self.contexts[t] = to_query, to_context
        self._location(to_scores, seen_from)
        gemm = weights.query.dtype
        to_hidden = self.grads[0][t] + self.to_hidden + (to_query.to(gemm) @ weights.query)
        self._cell(t, to_hidden, start.cell)
        to_inputs = self.gates[t].to(gemm) @ weights.recurrent
        self.to_context, self.to_hidden = to_inputs.float().split((past.context.shape[2], past.hidden.shape[2]), 1)

    def _bent(self, t: int, seen_from: Tensor) -> Tensor:
        past, weights = self.past, self.past.weights
        scores = F.linear(seen_from.to(weights.location.dtype), weights.location).float()
        query = F.linear(past.hidden[t].to(weights.query.dtype), weights.query).unsqueeze(1)
        return scores.add_(past.keys).add_(query).tanh_()

    def _location(self, to_scores: Tensor, seen_from: Tensor) -> None:
        location = self.past.weights.location
        kernel, tokens = location.shape[1] // 2, to_scores.shape[1]
        flat = to_scores.flatten(0, 1).to(location.dtype)
        self.location += flat.t() @ seen_from.flatten(0, 1).to(location.dtype)
        to_windows = torch.matmul(location.t(), to_scores.to(location.dtype).transpose(1, 2)).float()
        half = kernel // 2
        both = F.fold(to_windows, (1, tokens + 2 * half), (1, kernel)).squeeze(2)[:, :, half : half + tokens]
        self.to_attention = both[:, 0]
        self.to_seen = self.to_seen + both[:, 1]

    def _cell(self, t: int, to_hidden: Tensor, cell_before: Tensor) -> None:
        past = self.past
        into, keep, out, fresh = past.activations[t].chunk(4, 1)
        bent = past.cell[t].tanh()
        to_cell = self.to_cell + to_hidden * out * (1 - bent.square())
        raw = torch.cat((to_cell * fresh, to_cell * cell_before, to_hidden * bent, to_cell * into), 1)
        width = 3 * into.shape[1]
        slopes = torch.cat(
            ((lambda opened: opened * (1 - opened))(past.activations[t][:, :width]), 1 - past.activations[t][:, width:].square()), 1
        )
        self.gates[t] = raw * slopes
        self.to_cell = to_cell * keep

    def results(self) -> tuple[Tensor | None, ...]:
        """Gradients of gates, memory, keys, (outside,) recurrent, query, location, energy."""
        past, weights = self.past, self.past.weights
        memory = torch.bmm(past.attention.permute(1, 2, 0), self.contexts.transpose(0, 1))
        inputs = torch.zeros(*past.hidden.shape[:2], weights.recurrent.shape[1], dtype=past.hidden.dtype, device=memory.device)
        torch.cat((past.context[:-1], past.hidden[:-1]), 2, out=inputs[1:]) if len(inputs) > 1 else None
        gemm = weights.recurrent.dtype
        recurrent = self.gates.flatten(0, 1).to(gemm).t() @ inputs.flatten(0, 1).to(gemm)
        query = self.queries.flatten(0, 1).to(gemm).t() @ past.hidden.flatten(0, 1).to(gemm)
        return self.gates, memory, self.keys, None, recurrent, query, self.location.to(weights.location.dtype), self.energy


def attend(
    gates: Tensor, memory: Tensor, keys: Tensor, outside: Tensor, weights: LoopWeights, remember: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps: hidden (T, B, A), context (T, B, E), attention (T, B, N), as AttentionLoop computes them."""
    kind = gates.device.type
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        weights = LoopWeights(weights.recurrent.to(low), weights.query.to(low), weights.location.to(low), weights.energy)
    with torch.autocast(kind, enabled=False):
        found = AttentionLoop.apply(gates.float(), memory.float(), keys.float(), outside, *weights, remember)
    return cast(tuple[Tensor, Tensor, Tensor], found)
