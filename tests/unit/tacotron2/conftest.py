"""A dataset of tones: quick to make, and each text has its own sound."""

import math
from types import SimpleNamespace

import pytest
import torch
from smarttuner.trainer.tacotron2.settings import Front, Recipe
from smarttuner.trainer.tacotron2.wav import write_wav

TINY_FRONT = Front(sample_rate=8000, n_fft=256, hop_length=128, win_length=256, n_mels=8, mel_fmax=4000)
TINY_RECIPE = Recipe(
    encoder_embedding_dim=16,
    decoder_rnn_dim=16,
    attention_kernel=7,
    attention_filters=4,
    postnet_layers=2,
    batch_size=4,
    steps=6,
    evaluate_every=3,
    synthesize_every=0,
)
TONES = {"a": 300, "e": 600, "i": 900, "o": 1500, "u": 2100}


def tone_text(number):
    letters = list(TONES)
    return " ".join(letters[(number // 5**place) % 5] for place in range(3))


def tone_sound(text, rate=8000):
    parts = [torch.sin(torch.arange(int(0.1 * rate)) * 2 * math.pi * TONES[letter] / rate) * 0.4 for letter in text.split()]
    return torch.cat(parts)


def write_tones(folder, count=12):
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for number in range(count):
        text = tone_text(7 * number)
        write_wav(folder / "wavs" / f"T-{number:03}.wav", tone_sound(text), 8000)
        lines.append(f"T-{number:03}|{text}|{text}\n")
    (folder / "metadata.csv").write_text("".join(lines))
    return folder


@pytest.fixture
def tiny():
    """The front end, recipe and sounds that the tests share."""
    return SimpleNamespace(front=TINY_FRONT, recipe=TINY_RECIPE, sound=tone_sound, write=write_tones)


@pytest.fixture
def tones(tmp_path):
    return write_tones(tmp_path / "tones")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
