"""The attention LSTM and the location-sensitive attention over all decoder steps, forward and backward, as one function.

Only this part of the decoder has to go step by step, and at small sizes a call into torch costs as much as what it computes.
So a step is few calls, on views of memory that was laid out before; what can wait (the products of the recurrent, query and
memory gradients, the slopes of the gates) is done for all steps at once, and the location convolution with its linear layer
is one matrix. tests hold it against a plain loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
"""Tokens whose location scores are one product: more would multiply mostly zeros, fewer would be more calls."""


class LoopWeights(NamedTuple):
    """recurrent (4A, E + A) for [context, hidden] with gates in the order fresh, input, forget, output; query (D, A);
    location (D, 2K): the location convolution folded with its linear layer; energy (D)."""

    recurrent: Tensor
    query: Tensor
    location: Tensor
    energy: Tensor


class Text(NamedTuple):
    """What is attended to, and the weights as the loop multiplies by them: memory (B, N, E); keys (B · blocks, S · D) for
    blocks of S tokens; closed (B · N), minus infinity on padding; recurrent (E + A, 4A); query (A, D); spread (2W, S · D):
    from W attentions and W sums around a block to its scores; energy (D)."""

    memory: Tensor
    keys: Tensor
    closed: Tensor
    recurrent: Tensor
    query: Tensor
    spread: Tensor
    energy: Tensor


def text_of(memory: Tensor, keys: Tensor, outside: Tensor, weights: LoopWeights) -> Text:
    """memory (B, N, E), keys (B, N, D), outside (B, N) True on padding. Long texts are filled up to whole blocks."""
    tokens, kernel = memory.shape[1], weights.location.shape[1] // 2
    block = min(tokens, BLOCK)
    more = -tokens % block
    if more:
        memory, keys = F.pad(memory, (0, 0, 0, more)), F.pad(keys, (0, 0, 0, more))
        outside = F.pad(outside, (0, more), value=True)
    closed = torch.zeros_like(outside, dtype=keys.dtype).masked_fill_(outside, float("-inf")).flatten()
    spread = spread_of(weights.location.unflatten(1, (2, kernel)), block, whole=tokens == block)
    turned = weights.recurrent.t().contiguous(), weights.query.t().contiguous()
    return Text(memory, keys.reshape(-1, block * keys.shape[2]), closed, *turned, spread, weights.energy)


def spread_of(location: Tensor, block: int, whole: bool) -> Tensor:
    """The convolution (D, 2, K) over `block` tokens as a matrix (2W, block · D). W is block + K - 1, or, where the block is the
    `whole` text, beside which all is zero, block."""
    size, kernel = location.shape[0], location.shape[2]
    padded = F.pad(location, (block - 1, block - 1))
    bands = padded.unfold(2, block + kernel - 1, 1).flip(2)  # (D, 2, block, W): row n holds the kernel from place n on
    if whole:
        bands = bands[..., kernel // 2 : kernel // 2 + block]
    return bands.permute(1, 3, 2, 0).reshape(-1, block * size)


class Place(NamedTuple):
    """One step's share of the room: both (B, E + A) is context beside hidden; cell (B, A); places (B, 2, N) this step's
    attention beside the sum of all so far; opened (B, 4A) the gates' activations; bent_cell (B, A) and bent (B · N, D) the
    tanh of the cell and of the energies. The others are views of these."""

    both: Tensor
    context: Tensor
    hidden: Tensor
    cell: Tensor
    places: Tensor
    attention: Tensor
    seen: Tensor
    opened: Tensor
    fresh: Tensor
    sigmoids: Tensor
    into: Tensor
    keep: Tensor
    out: Tensor
    bent_cell: Tensor
    bent: Tensor


class Room(NamedTuple):
    """What T steps write, after the zero state before them: both (T + 1, B, E + A), cell (T + 1, B, A), places
    (T + 1, B, 2, N), opened (T + 1, B, 4A), bent_cell (T + 1, B, A), bent (T + 1 or 1, B · N, D)."""

    both: Tensor
    cell: Tensor
    places: Tensor
    opened: Tensor
    bent_cell: Tensor
    bent: Tensor

    def steps(self, size: int) -> list[Place]:
        """The state before the first step, then each step; `size` is the context's."""
        count, width = len(self.cell), self.cell.shape[2]
        context, hidden = self.both.split((size, width), 2)
        fresh, sigmoids = self.opened.split((width, 3 * width), 2)
        columns = [self.both, context, hidden, self.cell, self.places, self.places[:, :, 0], self.places[:, :, 1]]
        columns += [self.opened, fresh, sigmoids, *sigmoids.chunk(3, 2), self.bent_cell]
        bents = self.bent.expand(count, -1, -1)
        return [Place(*row) for row in zip(*(column.unbind(0) for column in (*columns, bents)), strict=True)]


def room(steps: int, text: Text, remember: bool) -> Room:
    """For so many steps over a text; without `remember`, all of them write the energies' tanh to one place."""
    batch, tokens, size = text.memory.shape
    width, scores = text.query.shape
    shapes = ((batch, size + width), (batch, width), (batch, 2, tokens), (batch, 4 * width), (batch, width))
    made = [text.memory.new_empty(steps + 1, *shape) for shape in shapes]
    for one in made[:3]:
        one[0].zero_()
    made.append(text.memory.new_empty(steps + 1 if remember else 1, batch * tokens, scores))
    return Room(*made)


def advance(gates: Tensor, start: Place, end: Place, text: Text) -> None:
    """One step from `start`, written into `end`. gates (B, 4A): the input's share of the gates."""
    plus(gates, start.both, text.recurrent, end.opened)
    end.fresh.tanh_()
    end.sigmoids.sigmoid_()
    torch.mul(end.into, end.fresh, out=end.cell).addcmul_(end.keep, start.cell)
    torch.mul(end.out, torch.tanh(end.cell, out=end.bent_cell), out=end.hidden)
    score(start, end, text)
    energies = torch.addmv(text.closed, end.bent, text.energy).view(end.attention.shape)
    end.attention.copy_(torch.softmax(energies, 1))
    torch.add(start.seen, end.attention, out=end.seen)
    end.context.copy_(torch.bmm(end.attention.unsqueeze(1), text.memory).squeeze(1))


def score(start: Place, end: Place, text: Text) -> None:
    """Into `end.bent`: tanh of what token, query and the attention so far say about each token."""
    plus(text.keys, windows(start.places, text), text.spread, end.bent.view(text.keys.shape))
    found = end.bent.view(len(end.hidden), -1, text.query.shape[1])
    found.add_(times(end.hidden, text.query).unsqueeze(1)).tanh_()


def plus(base: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = base + x @ weight, multiplied in the weight's precision."""
    if x.dtype == weight.dtype:
        torch.addmm(base, x, weight, out=out)
    else:
        torch.add(base, x.to(weight.dtype) @ weight, out=out)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight, multiplied in the weight's precision."""
    return torch.mm(x, weight) if x.dtype == weight.dtype else (x.to(weight.dtype) @ weight).to(x.dtype)


def windows(places: Tensor, text: Text) -> Tensor:
    """(B, 2, N) to what each block sees (B · blocks, 2W)."""
    tokens, wide = places.shape[2], text.spread.shape[0] // 2
    if tokens == wide:
        return places.flatten(1)
    half = (wide - BLOCK) // 2
    return F.pad(places, (half, half)).unfold(2, wide, BLOCK).transpose(1, 2).reshape(-1, 2 * wide)


def from_windows(seen: Tensor, places: Tensor, text: Text) -> Tensor:
    """The reverse for gradients: (B · blocks, 2W) added up to (B, 2, N)."""
    tokens, wide = places.shape[2], text.spread.shape[0] // 2
    if tokens == wide:
        return seen.view(places.shape)
    half = (wide - BLOCK) // 2
    columns = seen.view(len(places), -1, 2 * wide).transpose(1, 2)
    return F.fold(columns, (1, tokens + 2 * half), (1, wide), stride=(1, BLOCK)).squeeze(2)[:, :, half : half + tokens]


class AttentionLoop(torch.autograd.Function):  # type: ignore[misc]  # mypy sees no torch
    """(gates (T, B, 4A), *Text, remember) -> both (T, B, E + A), attention (T, B, N). `remember` keeps the energies' tanh
    (T, B · N, D); without it the backward pass computes it again."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        text, remember = Text(*rest[:7]), bool(rest[7])
        made = room(len(gates), text, remember)
        steps = made.steps(text.memory.shape[2])
        for t, gate in enumerate(gates.unbind(0)):
            advance(gate, steps[t], steps[t + 1], text)
        ctx.save_for_backward(*text, *made)
        return made.both[1:].clone(), made.places[1:, :, 0].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        back = Backward(Text(*saved[:7]), Room(*saved[7:]), grads[0])
        back.run(grads[1])
        return (*back.results(), None)


class Backward:
    """The backward pass: what flows from step t to t - 1, and what is collected for the products at the end."""

    def __init__(self, text: Text, made: Room, to_both: Tensor) -> None:
        size, width = text.memory.shape[2], text.query.shape[0]
        self.text, self.made, self.steps = text, made, made.steps(size)
        self.gates = slopes(made)
        self.flowing = to_both.clone()
        self.turned = text.recurrent.t().contiguous(), text.query.t().contiguous(), text.spread.t().contiguous()
        self.queries = to_both.new_empty(*to_both.shape[:2], text.query.shape[1])
        out, bent = made.opened[1:, :, 3 * width :], made.bent_cell[1:]
        self.cell_slopes = out * (1 - bent.square())
        self.to_cell = torch.zeros_like(made.cell[0])
        self.to_places = torch.zeros_like(made.places[0])
        self.to_seen = torch.zeros_like(made.places[0, :, 1])
        self.keys, self.energy = torch.zeros_like(text.keys), torch.zeros_like(text.energy)
        self.spread = torch.zeros_like(text.spread, dtype=torch.float32)
        self.again = len(made.bent) == 1

    def run(self, to_attention: Tensor) -> None:
        """All steps from the last to the first."""
        size, width = self.text.memory.shape[2], self.text.query.shape[0]
        context, hidden = (part.unbind(0) for part in self.flowing.split((size, width), 2))
        both, attention, queries = self.flowing.unbind(0), to_attention.unbind(0), self.queries.unbind(0)
        by_cell, by_hidden = (part.unbind(0) for part in self.gates.split((3, 1), 2))
        rows, slope = self.gates.flatten(2).unbind(0), self.cell_slopes.unbind(0)
        for t in range(len(both) - 1, -1, -1):
            self._attention(self.steps[t], self.steps[t + 1], context[t], attention[t], queries[t])
            to_hidden = hidden[t]
            plus(to_hidden, queries[t], self.turned[1], to_hidden)
            self.to_cell.addcmul_(to_hidden, slope[t])
            by_cell[t].mul_(self.to_cell.unsqueeze(1))
            by_hidden[t].mul_(to_hidden.unsqueeze(1))
            self.to_cell.mul_(self.steps[t + 1].keep)
            if t:
                plus(both[t - 1], rows[t], self.turned[0], both[t - 1])

    def _attention(self, start: Place, end: Place, to_context: Tensor, to_attention: Tensor, to_query: Tensor) -> None:
        text = self.text
        self.to_seen += self.to_places[:, 1]
        to_attention = torch.bmm(text.memory, to_context.unsqueeze(2)).squeeze(2).add_(to_attention)
        to_attention.add_(self.to_places[:, 0]).add_(self.to_seen)
        to_energies = torch._softmax_backward_data(to_attention, end.attention, 1, to_attention.dtype)
        if self.again:
            score(start, end, text)
        self.energy.addmv_(end.bent.t(), to_energies.flatten())
        to_scores = torch.ops.aten.tanh_backward(to_energies.view(-1, 1) * text.energy, end.bent)
        torch.sum(to_scores.view(len(to_query), -1, to_query.shape[1]), 1, out=to_query)
        flat = to_scores.view(text.keys.shape)
        self.keys += flat
        low, seen = text.spread.dtype, windows(start.places, text)
        if flat.dtype == low:
            self.spread.addmm_(seen.t(), flat)
        else:
            self.spread += seen.t().to(low) @ flat.to(low)
        self.to_places = from_windows(times(flat, self.turned[2]), start.places, text)

    def results(self) -> tuple[Tensor | None, ...]:
        """Gradients of gates, memory, keys, (closed,) recurrent, query, spread, energy."""
        text, made = self.text, self.made
        gates, size, low = self.gates.flatten(2), text.memory.shape[2], text.recurrent.dtype
        memory = torch.bmm(made.places[1:, :, 0].permute(1, 2, 0), self.flowing[:, :, :size].transpose(0, 1))
        recurrent = made.both[:-1].flatten(0, 1).t().to(low) @ gates.flatten(0, 1).to(low)
        query = made.both[1:, :, size:].flatten(0, 1).t().to(low) @ self.queries.flatten(0, 1).to(low)
        return gates, memory, self.keys, None, recurrent, query, self.spread.to(low), self.energy


def slopes(made: Room) -> Tensor:
    """(T, B, 4, A): what each gate's gradient is multiplied by, the cell's for the first three and the hidden state's for the
    last one. The backward pass turns them into the gates' gradients in place."""
    fresh, into, keep, out = made.opened[1:].chunk(4, 2)
    before, bent = made.cell[:-1], made.bent_cell[1:]
    four = into * (1 - fresh.square()), fresh * into * (1 - into), before * keep * (1 - keep), bent * out * (1 - out)
    return torch.stack(four, 2)


def attend(
    gates: Tensor, memory: Tensor, keys: Tensor, outside: Tensor, weights: LoopWeights, remember: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps: hidden (T, B, A), context (T, B, E), attention (T, B, N), as AttentionLoop computes them."""
    kind, tokens = gates.device.type, memory.shape[1]
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        weights = LoopWeights(weights.recurrent.to(low), weights.query.to(low), weights.location.to(low), weights.energy)
    with torch.autocast(kind, enabled=False):
        text = text_of(memory.float(), keys.float(), outside, weights)
        both, attention = AttentionLoop.apply(gates.float(), *text, remember)
    context, hidden = both.split((memory.shape[2], weights.query.shape[1]), 2)
    return cast(Tensor, hidden), cast(Tensor, context), attention[:, :, :tokens]
