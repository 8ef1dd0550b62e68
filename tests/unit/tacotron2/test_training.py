"""The loop: seeds, resuming, saving, judging, as far as one small process shows it."""

import io
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import UsageError
from smarttuner.trainer.tacotron2 import training
from smarttuner.trainer.tacotron2.alignment import alignment_score, text_use
from smarttuner.trainer.tacotron2.checkpoint_files import CheckpointFolder
from smarttuner.trainer.tacotron2.evaluation import Sample, summary
from smarttuner.trainer.tacotron2.job import Job, speaker, train
from smarttuner.trainer.tacotron2.progress import Progress
from smarttuner.trainer.tacotron2.settings import Board, Resources, Saving, Settings


@pytest.fixture
def job(tiny, tones, tmp_path, monkeypatch):
    """A training of seconds; `of(**changes)` changes its settings."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SMART_TUNER_DATA_DIR", str(tmp_path / "data"))

    def of(out, resume=False, **changes):
        settings = Settings(front=tiny.front, recipe=tiny.recipe.complete(), saving=Saving(every=2))
        return Job(replace(settings, **changes), tones, tmp_path / out, out, tmp_path / "mels", resume)

    return of


def weights(job_):
    files = CheckpointFolder(job_.out / "checkpoints", job_.settings.saving)
    return files.latest(pytest.fail)[1]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_the_same_seed_gives_the_same_weights_and_another_one_others(job):
    first, again, other = job("a"), job("b"), job("c", seed=7)
    for one in (first, again, other):
        assert train(one, {}).ended == "finished"
    one, two, three = (weights(each)["model"] for each in (first, again, other))
    assert same(one, two)
    assert not same(one, three)


@pytest.mark.parametrize("techniques", [(), ("speed_perturbation", "add_noise")])
def test_a_resumed_training_continues_bit_for_bit(job, techniques, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(process_time=lambda: next(seconds)))
    whole = job("whole", techniques=techniques)
    train(whole, {})
    halted = job("halted", techniques=techniques)
    recipe = halted.settings.recipe
    stopped = replace(halted.settings, saving=Saving(every=4, keep=9))
    train(replace(halted, settings=stopped), {})
    for step in (5, 6):  # as if it had been killed after step 4
        for left in (halted.out / "checkpoints").glob(f"step-{step}"):
            left.rename(halted.out / f"gone-{step}")
    outcome = train(job("halted", resume=True, techniques=techniques), {})
    assert outcome.step == recipe.steps
    assert outcome.values["training_cpu_s"] == recipe.steps  # a second each
    for part in ("model", "optimizer", "schedule", "step", "cpu_s"):
        assert same(weights(whole)[part], weights(halted)[part]), part


def test_a_folder_with_checkpoints_is_not_trained_over(job):
    train(job("a"), {})
    with pytest.raises(UsageError, match="checkpoints of another training"):
        train(job("a"), {})


def test_resuming_with_another_network_is_refused(job, tiny):
    train(job("a"), {})
    with pytest.raises(UsageError, match="another network's"):
        train(job("a", resume=True, recipe=replace(tiny.recipe, decoder_rnn_dim=8).complete()), {})


def test_what_is_logged_said_and_saved(job, tiny, capsys):
    outcome = train(job("a", recipe=replace(tiny.recipe, synthesize_every=6).complete()), {})
    wanted = {"train_loss", "val_loss", "mel_loss", "gate_loss", "alignment_score", "text_use", "stopped"}
    assert wanted <= set(outcome.values)
    assert all(math.isfinite(value) for value in outcome.values.values())
    assert outcome.values["val_loss"] == pytest.approx(outcome.values["mel_loss"] + outcome.values["gate_loss"])
    said = capsys.readouterr().err
    assert "step 3, after " in said
    assert f"val_loss {outcome.values['val_loss']:.4g}" in said
    assert list((job("a").out / "samples" / "step-6").glob("*.wav"))
    assert (job("a").out / "samples" / "step-6" / "alignment.png").read_bytes().startswith(b"\x89PNG")
    saved = weights(job("a"))
    assert saved["step"] == 6
    assert saved["settings"]["seed"] == 42


def test_a_checkpoint_speaks(job):
    train(job("a"), {})
    voice = speaker(job("a").out, pytest.fail)
    samples, _ = voice.say("a e i")
    assert torch.equal(samples, speaker(job("a").out, pytest.fail).say("a e i")[0])
    with pytest.raises(UsageError, match="does not know"):
        voice.say("7")


def test_the_rate_is_the_configured_one(job, tiny):
    losses = []
    for number, rate in enumerate((1e-6, 5e-2)):
        recipe = replace(tiny.recipe, learning_rate=rate, warmup_steps=0).complete()
        losses.append(train(job(f"r{number}", recipe=recipe), {}).values["train_loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": Resources(gradient_checkpointing=True, activation_checkpointing=True)},
        {"saving": Saving(every=2, beside=False, compression="gzip")},
    ],
)
def test_saving_memory_or_files_changes_no_weight(job, changes):
    plain, other = job("plain"), job("other", **changes)
    train(plain, {})
    train(other, {})
    one, two = weights(plain)["model"], weights(other)["model"]
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_event_files_hold_scalars_the_graph_and_pictures(job, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(job("a", board=Board(str(tmp_path / "board"))), {})
    train(job("b", board=Board(str(tmp_path / "board"), graph=False, images=False)), {})
    shown, plain = (EventAccumulator(str(tmp_path / "board" / name)) for name in "ab")
    shown.Reload()
    plain.Reload()
    assert {"val_loss", "alignment_score", "text_use"} <= set(shown.Tags()["scalars"])
    assert set(shown.Tags()["images"]) == {"alignment", "mel"}
    assert "decoder" not in shown.Graph().node
    assert {"attention/cell", "encoder/lstm"} <= {node.name for node in shown.Graph().node}
    assert plain.Tags()["images"] == []
    assert not plain.Tags()["graph"]
    assert set(plain.Tags()["scalars"]) == set(shown.Tags()["scalars"])


@pytest.mark.parametrize(
    ("attention", "least", "most"),
    [
        (torch.eye(12), 1.0, 1.0),
        (torch.full((24, 12), 1 / 12), 0.0, 0.1),
        (torch.eye(12)[[3] * 24], 0.0, 0.3),
        (torch.eye(12).flip(0), 0.0, 0.01),
        (torch.eye(12)[[*range(8), *range(8)]], 0.2, 0.6),
        (torch.eye(12)[:8], 0.6, 0.85),
    ],
    ids=["perfect", "uniform", "stuck", "reversed", "repeated", "a third skipped"],
)
def test_alignment_score_knows_a_walk_from_a_pretence(attention, least, most):
    assert least - 1e-6 <= alignment_score(attention) <= most + 1e-6


def test_the_quality_is_a_mean_with_its_deviation():
    heard = [Sample(None, torch.zeros(1), score > 3, {"audio_quality_score": score}) for score in (3.0, 4.0)]
    assert summary(heard) == {
        "audio_quality_score": 3.5,
        "audio_quality_deviation": pytest.approx(0.5**0.5),
        "stopped": 0.5,
    }
    assert "audio_quality_deviation" not in summary(heard[:1])


def test_text_use_is_zero_where_the_text_is_not_read():
    assert text_use(0.5, 0.5) == 0.0
    assert text_use(0.5, 1.0) == 1.0


def test_progress_says_the_time_that_is_left():
    clock, out = ManualClock(), io.StringIO()
    shown = Progress(100, 0, out, clock)
    clock.turn(20.0)
    shown.show(20, {"train_loss": 1.5})
    shown.show(21, {"train_loss": 1.5})
    assert out.getvalue() == "step 20/100  1.00 steps/s  1:20 left  train_loss 1.5\n"
