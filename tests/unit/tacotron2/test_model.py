"""The network: gradients of the fast loop, independence of padding, sizes."""

import pytest
import torch
from smarttuner.trainer.tacotron2.attention_loop import BLOCK, LoopWeights, attend
from smarttuner.trainer.tacotron2.losses import counts_of, losses
from smarttuner.trainer.tacotron2.model import Batch, Tacotron2
from smarttuner.trainer.tacotron2.settings import Recipe

TINY = Recipe(
    encoder_embedding_dim=16, decoder_rnn_dim=16, attention_kernel=7, attention_filters=4, reduction_factor=2, postnet_layers=2
)
STILL = Recipe(
    **{
        **vars(TINY),
        "dropout_encoder": 0.0,
        "dropout_attention": 0.0,
        "dropout_decoder": 0.0,
        "dropout_postnet": 0.0,
        "dropout_prenet": 0.0,
    }
)


def plain_loop(gates, memory, keys, outside, weights):
    """The same written down step by step, for autograd."""
    _, batch, _ = gates.shape
    width, kernel = weights.query.shape[1], weights.location.shape[1] // 2
    filters = weights.location.view(-1, 2, kernel)
    hidden = cell = gates.new_zeros(batch, width)
    context, attention = memory.new_zeros(batch, memory.shape[2]), memory.new_zeros(outside.shape)
    seen = attention
    out = []
    for gate in gates:
        raw = gate + torch.cat((context, hidden), 1) @ weights.recurrent.t()
        fresh, into, keep, opened = raw.chunk(4, 1)
        cell = keep.sigmoid() * cell + into.sigmoid() * fresh.tanh()
        hidden = opened.sigmoid() * cell.tanh()
        located = torch.nn.functional.conv1d(torch.stack((attention, seen), 1), filters, padding=kernel // 2).transpose(1, 2)
        energy = ((hidden @ weights.query.t()).unsqueeze(1) + keys + located).tanh() @ weights.energy
        attention = energy.masked_fill(outside, float("-inf")).softmax(1)
        seen = seen + attention
        context = (attention.unsqueeze(2) * memory).sum(1)
        out.append((hidden, context, attention))
    return tuple(torch.stack(column) for column in zip(*out, strict=True))


def loop_inputs(tokens=6, kernel=5, dtype=torch.float32):
    """Of a size at which the loop is no chaos: with a standard deviation of 1 what one machine rounds otherwise than another
    grows to ten times what is allowed, with 1/2 it stays below a tenth."""
    torch.manual_seed(3)
    steps, batch, size, width, keys = 9, 3, 5, 4, 7
    shapes = [(steps, batch, 4 * width), (batch, tokens, size), (batch, tokens, keys)]
    shapes += [(4 * width, size + width), (keys, width), (keys, 2 * kernel), (keys,)]
    leaves = [torch.randn(shape, dtype=dtype).div_(2).requires_grad_() for shape in shapes]
    outside = torch.arange(tokens) >= torch.tensor([[tokens], [tokens - 2], [tokens // 3]])
    return leaves, outside


@pytest.mark.parametrize(
    ("tokens", "kernel", "remember"),
    [(6, 5, True), (6, 5, False), (6, 31, True), (BLOCK, 5, True), (2 * BLOCK + 3, 31, True), (BLOCK + 1, 5, False)],
)
def test_the_fast_loop_has_the_gradients_of_a_plain_loop(tokens, kernel, remember):
    leaves, outside = loop_inputs(tokens, kernel)
    found = attend(*leaves[:3], outside, LoopWeights(*leaves[3:]), remember)
    wanted = plain_loop(*leaves[:3], outside, LoopWeights(*leaves[3:]))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    mixed = [torch.randn_like(one) for one in wanted]
    grads = torch.autograd.grad(sum((a * b).sum() for a, b in zip(found, mixed, strict=True)), leaves)
    plain = torch.autograd.grad(sum((a * b).sum() for a, b in zip(wanted, mixed, strict=True)), leaves)
    for one, other in zip(grads, plain, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_the_fast_loop_in_half_precision_points_the_same_way():
    leaves, outside = loop_inputs(BLOCK + 1)
    grads = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found = attend(*leaves[:3], outside, LoopWeights(*leaves[3:]), True)
        grads.append(torch.autograd.grad(sum(one.square().sum() for one in found), leaves))
    for one, other in zip(*grads, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.98


def utterances(count=3, mels=8, seed=5):
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(1, 20, (4 + 3 * i,), generator=generator) for i in range(count)]
    frames = [torch.randn(7 + 5 * i, mels, generator=generator) for i in range(count)]
    return tokens, frames


def batched(tokens, frames, more_tokens=0, more_frames=0):
    def padded(rows, more):
        longest = max(len(row) for row in rows) + more
        return torch.stack([torch.nn.functional.pad(row, [0, 0] * (row.dim() - 1) + [0, longest - len(row)]) for row in rows])

    counts = [torch.tensor([len(row) for row in rows]) for rows in (tokens, frames)]
    return Batch(padded(tokens, more_tokens), counts[0], padded(frames, more_frames), counts[1])


def model_of(recipe=STILL, mels=8, **options):
    torch.manual_seed(0)
    return Tacotron2(20, mels, recipe, **options)


def run(model, batch):
    found = losses(model(batch), batch, model.recipe, counts_of(batch, model.recipe.reduction_factor))
    grads = torch.autograd.grad(found.total, [one for one in model.parameters() if one.requires_grad])
    return found, grads


@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_do_not_depend_on_the_padding(training):
    tokens, frames = utterances()
    model = model_of().train(training)
    tight, tight_grads = run(model, batched(tokens, frames))
    wide, wide_grads = run(model, batched(tokens, frames, more_tokens=9, more_frames=11))
    torch.testing.assert_close(torch.stack(tight), torch.stack(wide), rtol=1e-5, atol=1e-6)
    for one, other in zip(tight_grads, wide_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_an_evaluated_utterance_does_not_depend_on_its_neighbours():
    tokens, frames = utterances()
    model = model_of(TINY).eval()
    together = model(batched(tokens, frames))
    alone = model(batched(tokens[:1], frames[:1]))
    torch.testing.assert_close(together.after[:1, :7], alone.after[:, :7], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.attention[:1, :4, :4], alone.attention[:, :4], rtol=1e-5, atol=1e-6)


def test_speaking_gives_what_teacher_forcing_gives_for_its_own_frames():
    tokens, _ = utterances(1)
    model = model_of(TINY).eval()
    for parameter in model.postnet[-1].norm.parameters():
        parameter.data.zero_()  # frames as the decoder made them, which is what it heard
    counts = torch.tensor([len(tokens[0])])
    spoken = model.speak(tokens[0].unsqueeze(0), counts, 12)
    with torch.no_grad():
        forced = model(Batch(tokens[0].unsqueeze(0), counts, spoken.mels, spoken.frame_counts))
    torch.testing.assert_close(forced.after, spoken.mels, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(forced.attention, spoken.attention, rtol=1e-5, atol=1e-6)


def test_the_seeds_full_size_is_the_papers_model():
    with torch.device("meta"):
        model = Tacotron2(60, 80, Recipe(encoder_embedding_dim=512, decoder_rnn_dim=1024))
    assert 27e6 < sum(one.numel() for one in model.parameters()) < 30e6


@pytest.mark.parametrize("options", [{"save_layers": True}, {"save_loop": True}])
def test_saving_activations_changes_neither_losses_nor_gradients_nor_statistics(options):
    tokens, frames = utterances()
    wanted, thrifty = model_of(), model_of(**options)
    one, one_grads = run(wanted, batched(tokens, frames))
    other, other_grads = run(thrifty, batched(tokens, frames))
    torch.testing.assert_close(torch.stack(one), torch.stack(other), rtol=0, atol=0)
    for a, b in zip(one_grads, other_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for name, buffer in wanted.named_buffers():
        torch.testing.assert_close(buffer, dict(thrifty.named_buffers())[name], rtol=0, atol=0)
