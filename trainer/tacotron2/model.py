"""The network: text in, mel spectrogram out. Sizes come from a Recipe; frames are predicted `reduction_factor` at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .attention_loop import LoopWeights, advance, attend, room, text_of
from .layers import MaskedConvolution, thrifty
from .settings import Recipe

EVALUATION_SEED = 1234
ENERGY_GAIN = 8.0  # Adam moves each weight by about its rate: this lets the attention come into focus as much sooner


class Batch(NamedTuple):
    """tokens (B, N) with 0 for padding, token_counts (B); mels (B, L, M) standardised and 0 on padding, frame_counts (B)."""

    tokens: Tensor
    token_counts: Tensor
    mels: Tensor
    frame_counts: Tensor

    def to(self, device: torch.device) -> Batch:
        """On another device; the counts stay on the host, where they are read."""
        return Batch(self.tokens.to(device), self.token_counts, self.mels.to(device), self.frame_counts)


class Output(NamedTuple):
    """mels before and after the postnet (B, T·r, M), stop logits (B, T), attention (B, T, N)."""

    before: Tensor
    after: Tensor
    gates: Tensor
    attention: Tensor


class Spoken(NamedTuple):
    """What the model says by itself: standardised mels (B, L, M), frame_counts (B), attention (B, T, N), stopped (B)."""

    mels: Tensor
    frame_counts: Tensor
    attention: Tensor
    stopped: Tensor


def inside_of(counts: Tensor, length: int, device: torch.device) -> Tensor:
    """(B, length), True where a place counts."""
    return torch.arange(length, device=device) < counts.to(device).unsqueeze(1)


class Encoder(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """Embedding, convolutions, a bidirectional LSTM: tokens (B, N) to memory (B, N, E), zero on padding."""

    def __init__(self, symbols: int, recipe: Recipe) -> None:
        super().__init__()
        size = recipe.encoder_embedding_dim
        self.embedding = nn.Embedding(symbols, size, padding_idx=0)
        bound = (3.0 / size) ** 0.5
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        self.convolutions = nn.ModuleList(
            MaskedConvolution(size, size, recipe.encoder_kernel, torch.relu, recipe.dropout_encoder)
            for _ in range(recipe.encoder_layers)
        )
        self.lstm = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, counts: Tensor, save: bool = False) -> Tensor:
        """`save` keeps no activations of the convolutions."""
        inside = inside_of(counts, tokens.shape[1], tokens.device).unsqueeze(1).float()
        x = self.embedding(tokens).transpose(1, 2)
        for block in self.convolutions:
            x = thrifty(block, save, x, inside)
        packed = pack_padded_sequence(x.transpose(1, 2), counts.cpu(), batch_first=True, enforce_sorted=False)
        memory, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return memory


class Prenet(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """Two layers whose dropout stays on in evaluation, seeded: there, step t drops the same channels in every utterance."""

    def __init__(self, mels: int, size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(mels, size, bias=False), nn.Linear(size, size, bias=False)))
        self.dropout, self.size = dropout, size

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """(T, B, M) to (T, B, size); `first` is the step of x[0]."""
        kept = None if self.training or not self.dropout else self._kept(first, len(x), x.device)
        for number, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            x = F.dropout(x, self.dropout, self.training) if kept is None else x * kept[:, number].unsqueeze(1)
        return x

    def _kept(self, first: int, steps: int, device: torch.device) -> Tensor:
        drawn = torch.rand(first + steps, 2, self.size, generator=torch.Generator().manual_seed(EVALUATION_SEED))
        return ((drawn[first:] >= self.dropout).float() / (1 - self.dropout)).to(device)


class Attention(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """The weights of the attention LSTM and of the attention."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width, memory, size = recipe.attention_rnn_dim, recipe.encoder_embedding_dim, recipe.attention_dim
        self.cell = nn.LSTMCell(recipe.prenet_dim + memory, width)
        self.query = nn.Linear(width, size, bias=False)
        self.key = nn.Linear(memory, size)
        self.convolution = nn.Conv1d(2, recipe.attention_filters, recipe.attention_kernel, bias=False)
        self.location = nn.Linear(recipe.attention_filters, size, bias=False)
        self.energy = nn.Linear(size, 1, bias=False)
        for linear in (self.query, self.key, self.location):
            nn.init.xavier_uniform_(linear.weight, nn.init.calculate_gain("tanh"))
        with torch.no_grad():
            self.energy.weight /= ENERGY_GAIN
        self.inputs, self.width = recipe.prenet_dim, width

    def gates(self, x: Tensor) -> Tensor:
        """The input's share of the gates, for all steps in one product."""
        return F.linear(
            x, self._ordered(self.cell.weight_ih)[:, : self.inputs], self._ordered(self.cell.bias_ih + self.cell.bias_hh)
        )

    def weights(self) -> LoopWeights:
        """What the loop uses: gates in its order, the location convolution folded with its linear layer."""
        recurrent = torch.cat((self._ordered(self.cell.weight_ih)[:, self.inputs :], self._ordered(self.cell.weight_hh)), 1)
        folded = torch.einsum("df,fck->dck", self.location.weight, self.convolution.weight).flatten(1)
        return LoopWeights(recurrent, self.query.weight, folded, self.energy.weight[0] * ENERGY_GAIN)

    def _ordered(self, rows: Tensor) -> Tensor:
        """torch's gates come as input, forget, cell, output; the loop's as cell, input, forget, output."""
        into, keep, fresh, out = rows.chunk(4)
        return torch.cat((fresh, into, keep, out))


class Tacotron2(nn.Module):  # type: ignore[misc]  # mypy sees no torch
    """Encoder, attention, decoder, postnet. `forward` is teacher-forced, `speak` free-running."""

    mel_mean: Tensor
    mel_deviation: Tensor

    def __init__(self, symbols: int, mels: int, recipe: Recipe, save_layers: bool = False, save_loop: bool = False) -> None:
        super().__init__()
        recipe = recipe.complete()
        self.recipe, self.mels, self.save_layers, self.save_loop = recipe, mels, save_layers, save_loop
        memory, width, decoder = recipe.encoder_embedding_dim, recipe.attention_rnn_dim, recipe.decoder_rnn_dim
        self.encoder = Encoder(symbols, recipe)
        self.prenet = Prenet(mels, recipe.prenet_dim, recipe.dropout_prenet)
        self.attention = Attention(recipe)
        self.lstm = nn.LSTM(width + memory, decoder)
        self.frames = nn.Linear(decoder + memory, mels * recipe.reduction_factor)
        self.gate = nn.Linear(decoder + memory, 1)
        widths = [mels, *[recipe.postnet_dim] * (recipe.postnet_layers - 1), mels]
        last = len(widths) - 2
        self.postnet = nn.ModuleList(
            MaskedConvolution(a, b, recipe.postnet_kernel, torch.tanh if i < last else None, recipe.dropout_postnet)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.register_buffer("mel_mean", torch.zeros(mels))
        self.register_buffer("mel_deviation", torch.ones(mels))

    def forward(self, batch: Batch) -> Output:
        """Teacher-forced: each step sees the true frame before it."""
        r = self.recipe.reduction_factor
        memory, keys, outside = self._read(batch.tokens, batch.token_counts)
        mels = F.pad(batch.mels, (0, 0, 0, -batch.mels.shape[1] % r))
        seen = F.pad(mels[:, r - 1 :: r][:, :-1], (0, 0, 1, 0)).transpose(0, 1)
        gates = self.attention.gates(self.prenet(seen))
        weights = self.attention.weights()
        hidden, context, attention = attend(gates, memory, keys, outside, weights, remember=not self.save_loop)
        hidden = F.dropout(hidden, self.recipe.dropout_attention, self.training)
        decoded, _ = thrifty(self.lstm, self.save_layers, torch.cat((hidden, context), 2))
        before, stops = self._project(decoded, context)
        after = before + self._refine(before, batch.frame_counts)
        return Output(before, after, stops, attention.transpose(0, 1))

    @torch.no_grad()  # type: ignore[untyped-decorator]  # mypy sees no torch
    def speak(self, tokens: Tensor, counts: Tensor, max_frames: int) -> Spoken:
        """Free-running until the stop token of every utterance or max_frames."""
        r = self.recipe.reduction_factor
        memory, keys, outside = self._read(tokens, counts)
        text, lstm_state = text_of(memory, keys, outside, self.attention.weights()), None
        start, end = room(1, text, remember=True).steps(memory.shape[2])
        frame = memory.new_zeros(1, len(tokens), self.mels)
        stopped_at = torch.full((len(tokens),), -1, dtype=torch.long)
        frames, attentions = [], []
        for step in range(max(1, -(-max_frames // r))):
            gates = self.attention.gates(self.prenet(frame, step))[0].float()
            advance(gates, start, end, text)
            decoded, lstm_state = self.lstm(torch.cat((end.hidden, end.context), 1).unsqueeze(0), lstm_state)
            made, stop = self._project(decoded, end.context.unsqueeze(0))
            frames.append(made)
            attentions.append(end.attention[:, : tokens.shape[1]].clone())
            start, end = end, start
            frame = made[:, -1].unsqueeze(0)
            ends = (stop[:, 0] > 0).cpu() & (stopped_at < 0)
            stopped_at[ends] = step
            if bool((stopped_at >= 0).all()):
                break
        before = torch.cat(frames, 1)
        lengths = torch.where(stopped_at < 0, len(frames), stopped_at + 1) * r
        after = before + self._refine(before, lengths)
        return Spoken(after, lengths, torch.stack(attentions, 1), stopped_at >= 0)

    def _read(self, tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        memory = self.encoder(tokens, counts, self.save_layers).float()
        return memory, self.attention.key(memory).float(), ~inside_of(counts, tokens.shape[1], tokens.device)

    def _project(self, decoded: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(T, B, ·) to frames (B, T·r, M) and stop logits (B, T)."""
        decoded = F.dropout(decoded, self.recipe.dropout_decoder, self.training)
        both = torch.cat((decoded, context.to(decoded.dtype)), 2).transpose(0, 1)
        frames = self.frames(both).float()
        return frames.reshape(len(frames), -1, self.mels), self.gate(both).float().squeeze(2)

    def _refine(self, frames: Tensor, counts: Tensor) -> Tensor:
        """What the postnet adds to frames (B, L, M)."""
        inside = inside_of(counts, frames.shape[1], frames.device).unsqueeze(1).float()
        x = frames.transpose(1, 2)
        for block in self.postnet:
            x = thrifty(block, self.save_layers, x, inside)
        return x.transpose(1, 2).float()
