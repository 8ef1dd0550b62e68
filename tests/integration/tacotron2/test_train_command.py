"""`smart-tuner train` as processes: ranks, signals, a daemon that prunes, resuming, speaking."""

import contextlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from smarttuner.bus import query
from smarttuner.core.errors import Unavailable
from smarttuner.daemon.cli.main import run
from smarttuner.trainer.tacotron2.checkpoint_files import CheckpointFolder
from smarttuner.trainer.tacotron2.settings import Saving
from smarttuner.trainer.tacotron2.wav import read_wav, write_wav

COMMAND = (sys.executable, "-m", "smarttuner.daemon.cli.main")
PATIENCE_S = 120.0
CONFIG = """
audio_processing: {preprocessing: {sample_rate: 8000, n_fft: 256, hop_length: 128, win_length: 256, n_mels: 8}}
resources:
  distributed: {backend: gloo, world_size: WORLD, rank: RANK}
  gpu: {mixed_precision: false}
  checkpointing: {save_frequency: 2, keep_n_checkpoints: 3}
  memory_optimization: {activation_checkpointing: SAVE, gradient_checkpointing: SAVE}
policies: {default: observe}
search_space:
  mel_fmax: {type: choice, choices: [4000], default: 4000}
  encoder_embedding_dim: {type: choice, choices: [16], default: 16}
  decoder_rnn_dim: {type: choice, choices: [16], default: 16}
  batch_size: {type: choice, choices: [4], default: 4}
  evaluate_every: {type: choice, choices: [3], default: 3}
  steps: {type: choice, choices: [6], default: 6}
  synthesize_every: {type: choice, choices: [0], default: 0}
"""
STILL = [f"--set=dropout_{part}=0" for part in ("encoder", "attention", "decoder", "postnet", "prenet")]
TONES = (300, 600, 900, 1500, 2100)


@pytest.fixture
def place(tmp_path):
    """A dataset of tones, and processes that are gone afterwards."""
    (tmp_path / "tones" / "wavs").mkdir(parents=True)
    lines = []
    for number in range(12):
        digits = [(7 * number // 5**at) % 5 for at in range(3)]
        parts = [torch.sin(torch.arange(800) * 2 * math.pi * TONES[one] / 8000) * 0.4 for one in digits]
        write_wav(tmp_path / "tones" / "wavs" / f"T{number}.wav", torch.cat(parts), 8000)
        lines.append(f"T{number}|{' '.join('aeiou'[one] for one in digits)}\n")
    (tmp_path / "tones" / "metadata.csv").write_text("".join(lines))
    made = Place(tmp_path)
    yield made
    for one in made.processes:
        if one.poll() is None:
            one.kill()
        one.wait()
        one.stdout.close()


def free_port():
    """One that the kernel gives to nobody who connects or takes any: the ranks come to it many seconds later."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as one:
            port = random.randint(5_000, 10_000)
            one.bind(("localhost", port))
            return port


class Place:
    """A workplace that no other test shares."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        own = {"XDG_STATE_HOME": str(folder / "state"), "SMART_TUNER_DATA_DIR": str(folder / "data"), "OMP_NUM_THREADS": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SMART_TUNER")}
        self.environment = kept | own | {"XDG_CACHE_HOME": str(folder / "cache")}

    def start(self, *arguments, **environment):
        with (self.folder / "errors").open("ab") as errors:
            process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                env=self.environment | environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.processes.append(process)
        return process

    def train(self, name, *more, world=1, rank=0, save="false", **environment):
        config = self.folder / f"{name}-{rank}.yaml"
        config.write_text(CONFIG.replace("WORLD", str(world)).replace("RANK", str(rank)).replace("SAVE", save))
        fixed = ["train", "--config", config, "--dataset", self.folder / "tones", "--name", name, "--out", self.folder / name]
        return self.start(*fixed, "--json", *more, **environment)

    def ranks(self, name, *more, **options):
        there = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        return [self.train(name, *more, world=2, rank=rank, **options, **there) for rank in (0, 1)]

    def ended(self, process, code=0):
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, (self.folder / "errors").read_text()
        return json.loads(out.splitlines()[-1]) if out.strip() else None

    def files(self, name):
        return CheckpointFolder(self.folder / name / "checkpoints", Saving())

    def until(self, claim):
        deadline = time.monotonic() + PATIENCE_S
        while not (found := claim()):
            assert time.monotonic() < deadline, (self.folder / "errors").read_text()
            time.sleep(0.02)
        return found


def test_two_ranks_learn_what_one_learns_from_the_whole_batch(place):
    """With every way of saving memory on, which runs the ranks' sums a second time."""
    alone, both = place.train("alone", *STILL, save="true"), place.ranks("both", *STILL, save="true")
    one, (two, silent) = place.ended(alone), [place.ended(each) for each in both]
    assert silent is None
    for series in ("train_loss", "val_loss", "mel_loss", "gate_loss", "alignment_score", "attention_loss"):
        assert two[series] == pytest.approx(one[series], abs=1e-5), series
    first, second = (place.files(name).latest(pytest.fail)[1]["model"] for name in ("alone", "both"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_signals_end_it_with_a_checkpoint_and_a_kill_leaves_the_last_one_whole(place):
    last = 0
    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = place.train("a", "--resume", "--steps", 100000)
        place.until(lambda after=last: max(place.files("a").steps(), default=0) > after)
        process.send_signal(sent)
        said = place.ended(process, code)
        last = place.files("a").latest(pytest.fail)[1]["step"]
        if said is not None:
            assert (said["ended"], said["step"]) == ("interrupted", last)


def daemon(place):
    config = place.folder / "daemon.yaml"
    config.write_text("policies: {default: observe}\n")
    place.start("daemon", "--config", config)

    def answers():
        try:
            return query.ask(str(place.folder / "data"), {"query": "status"}, 10.0)
        except Unavailable:
            return None

    place.until(answers)


def test_decisions_reach_both_ranks_and_a_prune_ends_them_with_a_checkpoint(place):
    daemon(place)
    jobs = place.ranks("a", "--steps", 100000)
    place.until(lambda: place.files("a").steps())
    for decision in (("scale-lr", "0.5"), ("prune",)):
        process = place.start("decide", "a", *decision, "--wait")
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, (place.folder / "errors").read_text()
    said, silent = [place.ended(job) for job in jobs]
    assert silent is None
    assert said["ended"] == "pruned"
    assert place.files("a").steps()[-1] == said["step"]


def test_a_trained_network_speaks_and_bad_input_is_said_in_a_line(place, capsys, monkeypatch):
    for name in ("XDG_STATE_HOME", "SMART_TUNER_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, place.environment[name])
    config = place.folder / "c.yaml"
    config.write_text(CONFIG.replace("WORLD", "1").replace("RANK", "0").replace("SAVE", "false"))
    fixed = ["--config", str(config), "--dataset", str(place.folder / "tones"), "--out", str(place.folder / "a")]
    try:
        assert run(["train", *fixed]) == 0
        assert run(["synthesize", str(place.folder / "a"), "a e i", str(place.folder / "out.wav")]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    samples, rate = read_wav(place.folder / "out.wav")
    assert (rate, len(samples) > 0) == (8000, True)
    capsys.readouterr()
    nowhere = str(place.folder / "nowhere")
    for arguments, code, words in (
        (["train", *fixed], 2, "checkpoints of another training"),
        (["synthesize", nowhere, "a", "x.wav"], 2, "there is no checkpoint"),
        (["train", "--dataset", nowhere, "--out", nowhere], 2, "no metadata.csv"),
        (["train", *fixed, "--set", "stepps=3"], 3, "did you mean steps"),
    ):
        assert run(arguments) == code
        assert words in capsys.readouterr().err
