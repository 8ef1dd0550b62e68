"""Training steps a second of our Tacotron 2 beside NVIDIA/tacotron2 as published, whose folder is given: the same sizes, batch and
frames, one thread, forward, backward, clipping and Adam, in turns in one process. The reduction factor is 1, since theirs runs
with no other: its hparams.py says so, and with n_frames_per_step 3 its parse_decoder_inputs raises.

    python benchmarks/tacotron2_speed.py --nvidia PATH --size small full --rounds 5

Nothing of theirs is changed on disk. Around it: a namespace in place of its hparams.py (which needs TensorFlow 1), stand-ins for
its sound front end (which needs librosa and is not used here), and its mask on the CPU (it asks for CUDA).
"""

import argparse
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from smarttuner.trainer.tacotron2.losses import counts_of, losses
from smarttuner.trainer.tacotron2.machine import optimizer_of
from smarttuner.trainer.tacotron2.model import Batch, Tacotron2
from smarttuner.trainer.tacotron2.settings import Recipe

MELS, SYMBOLS = 80, 40
DROPOUTS = {"dropout_encoder": 0.5, "dropout_postnet": 0.5, "dropout_attention": 0.1, "dropout_decoder": 0.1}  # theirs
SIZES = {
    "small": ({"encoder_embedding_dim": 128, "decoder_rnn_dim": 128}, 16, 29, 198),
    "full": ({"encoder_embedding_dim": 512, "decoder_rnn_dim": 1024}, 16, 29, 66),
}
"""Sizes, batch, tokens and frames: small is the mean batch of `dataset synth`."""


def batch_of(size: str) -> Batch:
    """Random numbers: what they are does not matter to the time."""
    _, batch, tokens, frames = SIZES[size]
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(1, SYMBOLS, (batch, tokens), generator=generator)
    mels = torch.randn(batch, frames, MELS, generator=generator)
    return Batch(texts, torch.full((batch,), tokens), mels, torch.full((batch,), frames))


def ours(recipe: Recipe, data: Batch) -> Callable[[], float]:
    """One training step of ours, whose answer is its loss."""
    torch.manual_seed(0)
    model = Tacotron2(SYMBOLS, MELS, recipe).train()
    optimizer = optimizer_of(model.parameters(), 1e-3, 1e-6, False)

    def step() -> float:
        found = losses(model(data), data, recipe, counts_of(data, recipe.reduction_factor))
        optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(found.loss.detach())

    return step


def theirs(folder: Path, recipe: Recipe, data: Batch) -> Callable[[], float]:
    """The same of theirs, as its train.py does it."""
    published, criterion = imported(folder)
    torch.manual_seed(0)
    model = published.Tacotron2(hparams(recipe)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    mels = data.mels.transpose(1, 2).contiguous()
    gates = torch.zeros(len(mels), mels.shape[2])
    gates[:, -1] = 1
    inputs = (data.tokens, data.token_counts, mels, data.tokens.shape[1], data.frame_counts)

    def step() -> float:
        model.zero_grad()
        loss = criterion(model(inputs), (mels, gates))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def hparams(recipe: Recipe) -> types.SimpleNamespace:
    """A recipe in their words."""
    return types.SimpleNamespace(
        mask_padding=True,
        fp16_run=False,
        n_mel_channels=MELS,
        n_frames_per_step=1,
        n_symbols=SYMBOLS,
        symbols_embedding_dim=recipe.encoder_embedding_dim,
        encoder_kernel_size=recipe.encoder_kernel,
        encoder_n_convolutions=recipe.encoder_layers,
        encoder_embedding_dim=recipe.encoder_embedding_dim,
        attention_rnn_dim=recipe.attention_rnn_dim,
        decoder_rnn_dim=recipe.decoder_rnn_dim,
        prenet_dim=recipe.prenet_dim,
        max_decoder_steps=1000,
        gate_threshold=0.5,
        p_attention_dropout=recipe.dropout_attention,
        p_decoder_dropout=recipe.dropout_decoder,
        attention_dim=recipe.attention_dim,
        attention_location_n_filters=recipe.attention_filters,
        attention_location_kernel_size=recipe.attention_kernel,
        postnet_embedding_dim=recipe.postnet_dim,
        postnet_kernel_size=recipe.postnet_kernel,
        postnet_n_convolutions=recipe.postnet_layers,
    )


def imported(folder: Path) -> tuple[types.ModuleType, Callable[..., torch.Tensor]]:
    """Their model and loss."""
    stand_ins = {
        "librosa": (),
        "librosa.filters": ("mel",),
        "audio_processing": ("dynamic_range_compression", "dynamic_range_decompression"),
        "stft": ("STFT",),
    }
    for name, names in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        for one in names:
            setattr(sys.modules[name], one, None)
    sys.path.insert(0, str(folder))
    model = __import__("model")
    model.get_mask_from_lengths = lambda lengths: torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    return model, __import__("loss_function").Tacotron2Loss()


def timed(step: Callable[[], float], count: int) -> float:
    """CPU seconds a step."""
    began = time.process_time()
    for _ in range(count):
        loss = step()
    took = (time.process_time() - began) / count
    assert loss == loss, "the loss is no number"
    return took


def compare(folder: Path, size: str, rounds: int, count: int) -> None:
    """Prints one line: both speeds and their ratio, with its spread over rounds."""
    recipe = Recipe(**SIZES[size][0], **DROPOUTS, reduction_factor=1).complete()
    data = batch_of(size)
    steps = [ours(recipe, data), theirs(folder, recipe, data)]
    for step in steps:
        step()
    took = [[timed(step, count) for step in steps] for _ in range(rounds)]
    one, other = (statistics.median(column) for column in zip(*took, strict=True))
    ratios = sorted(b / a for a, b in took)
    print(
        f"{size:6} ours {1 / one:6.2f} steps a CPU-s, theirs {1 / other:6.2f}, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {rounds} rounds of {count})",
        flush=True,
    )


def main() -> None:
    """A line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvidia", type=Path, required=True, help="the folder of NVIDIA/tacotron2")
    parser.add_argument("--size", nargs="+", choices=sorted(SIZES), default=["small"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=2, help="steps of each in a round")
    given = parser.parse_args()
    if not (given.nvidia / "model.py").is_file():
        parser.error(f"{given.nvidia} holds no model.py: name the folder of NVIDIA/tacotron2")
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, one thread")
    for size in given.size:
        compare(given.nvidia, size, given.rounds, given.count)


if __name__ == "__main__":
    main()
