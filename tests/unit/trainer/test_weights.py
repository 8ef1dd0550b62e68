"""Best weights and checkpoints of real torch models."""

import os
import random
import shutil
import signal
import subprocess
import sys

import numpy
import pytest
import torch
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import Forbidden, Unavailable
from smarttuner.trainer.checkpoints import Checkpoints, Limits, Parts, run_folder
from smarttuner.trainer.hidden import hidden_name, sweep_hidden
from smarttuner.trainer.keep_best import KeepBest
from smarttuner.trainer.parts import on_cpu, reset_if_not_finite


def model_of(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()


def jitter(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


def test_the_restored_best_is_bit_for_bit_what_was_evaluated():
    model, clock = model_of(), ManualClock()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    keep = KeepBest(model, clock)
    keep.start("val_loss", "min")
    at = {}
    for number, value in enumerate([3.0, 1.5, 2.0, float("nan"), 1.5]):
        step(model, optimizer)
        at[number] = on_cpu(model.state_dict())
        assert keep.offer(number, {"val_loss": value, "other": 0.0}) == (["val_loss"] if number < 2 else [])
    snapshot = keep.restore()
    assert (snapshot.step, snapshot.value) == (1, 1.5)
    assert same(model.state_dict(), at[1])
    step(model, optimizer)
    assert same(keep.restore("val_loss").weights, at[1])  # training on does not reach the kept copy
    assert same(model.state_dict(), at[1])


def test_a_standing_order_that_knows_a_better_value_keeps_nothing_worse():
    model = model_of()
    keep = KeepBest(model, ManualClock())
    keep.start("val_loss", "min", 0.1, best=1.0, step=50)
    assert keep.offer(60, {"val_loss": 0.95}) == []
    with pytest.raises(Unavailable, match="no best weights are kept yet"):
        keep.restore()
    assert keep.offer(70, {"val_loss": 0.8}) == ["val_loss"]
    keep.start("val_loss", "min", 0.1, best=0.8, step=70)  # the order said again
    assert keep.restore().step == 70
    assert keep.offer(60, {"val_loss": 0.5}) == ["val_loss"]  # after a restore the steps may begin again


def test_another_min_delta_from_the_daemon_does_not_lose_what_is_kept():
    keep = KeepBest(model_of(), ManualClock())
    keep.start("val_loss", "min")
    keep.offer(1, {"val_loss": 1.0})
    assert keep.start("val_loss", "min", 0.1) == "step 1"
    assert keep.offer(2, {"val_loss": 0.95}) == []
    assert keep.restore().step == 1


def test_of_several_series_that_of_which_weights_are_kept_is_put_back():
    keep = KeepBest(model_of(), ManualClock())
    keep.start("val_loss", "min")
    keep.start("eval_loss", "min", best=3.5, step=2)
    keep.offer(3, {"eval_loss": 4.0})
    with pytest.raises(Unavailable, match="no best weights are kept yet"):
        keep.restore()
    keep.offer(4, {"eval_loss": 3.0})
    assert (keep.restore().series, keep.kept().step) == ("eval_loss", 4)


def test_an_interval_limits_the_copies_and_the_kept_step_is_named():
    clock = ManualClock()
    keep = KeepBest(model_of(), clock, interval_s=10)
    keep.start("acc", "max")
    assert keep.offer(1, {"acc": 0.1}) == ["acc"]
    clock.turn(5)
    assert keep.offer(2, {"acc": 0.2}) == []
    assert keep.kept().step == 1


def test_without_a_model_nothing_is_kept_and_five_series_are_too_many():
    with pytest.raises(Forbidden, match="no model"):
        KeepBest(None, ManualClock()).start("val_loss", "min")
    keep = KeepBest(model_of(), ManualClock())
    for name in "abcd":
        keep.start(name, "min")
    with pytest.raises(Forbidden, match="4 series"):
        keep.start("e", "min")
    keep.offer(1, dict.fromkeys("abcd", 1.0))
    assert keep.kept("a").weights is keep.kept("d").weights  # one copy a call


def test_a_model_too_large_for_the_free_memory_is_not_copied(monkeypatch):
    monkeypatch.setattr("smarttuner.trainer.keep_best._available_bytes", lambda: 100)
    keep = KeepBest(model_of(), ManualClock())
    keep.start("a", "min")
    with pytest.raises(Unavailable, match="MB of memory are free"):
        keep.offer(1, {"a": 1.0})


def test_moments_with_a_nan_are_forgotten_and_sound_ones_kept():
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    assert not reset_if_not_finite({"one": [optimizer]})
    next(iter(optimizer.state.values()))["exp_avg"][0] = float("nan")
    assert reset_if_not_finite({"one": [optimizer]})
    assert not optimizer.state
    step(model, optimizer)


def checkpoints(tmp_path, clock=None, **parts):
    return Checkpoints(run_folder(tmp_path, "r/x"), "r/x", "A1", Parts(**parts), clock or ManualClock())


def test_a_checkpoint_brings_weights_moments_and_scaler_back_and_leaves_the_schedule(tmp_path):
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    numpy.random.seed(3), random.seed(3)
    kept = checkpoints(tmp_path, model=[model], optimizer={"main": optimizer}, scheduler=schedule)
    step(model, optimizer)
    weights, moments = on_cpu(model.state_dict()), on_cpu(optimizer.state_dict())
    path = kept.save(4)
    assert path == tmp_path / "checkpoints" / "r~x" / "step-4"
    for _ in range(2):
        step(model, optimizer)
        schedule.step()
    own = optimizer.param_groups[0]["lr"]
    assert kept.load(4)[0] == 4
    assert same(model.state_dict(), weights)
    assert all(same(optimizer.state_dict()["state"][n], moments["state"][n]) for n in moments["state"])
    assert optimizer.param_groups[0]["lr"] is own
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    assert (saved["step"], saved["attempt"], saved["optimizer"]["main"]["param_groups"][0]["lr"]) == (4, "A1", 0.05)
    assert saved["scheduler"]["last_epoch"] == 0
    assert random.getstate() == saved["random"]["python"]
    numpy.random.set_state(tuple(saved["random"]["numpy"]))


def test_the_last_checkpoint_is_the_newest_one_and_a_step_saved_twice_keeps_both(tmp_path):
    clock, model = ManualClock(), model_of()
    kept = checkpoints(tmp_path, clock, model=model)
    with pytest.raises(Unavailable, match="none has been saved"):
        kept.load()
    kept.save(9)
    clock.turn(1)
    jitter(model)
    newest = on_cpu(model.state_dict())
    assert kept.save(9).name == "step-9~2"
    jitter(model)
    assert kept.load("last")[1].name == "step-9~2"
    assert same(model.state_dict(), newest)
    with pytest.raises(Unavailable, match=r"no checkpoint of step 5 .*there are: 9"):
        kept.load(5)


def test_the_jobs_own_functions_are_used_and_a_failure_leaves_nothing(tmp_path):
    seen = []

    def save(path):
        open(path + ".npz", "w").close()  # many savers add an ending of their own

    kept = checkpoints(tmp_path, save=save, load=seen.append)
    folder = kept.save(1)
    assert sorted(p.name for p in folder.iterdir()) == ["about.json", "checkpoint.pt.npz"]
    kept.load(1)
    assert seen == [str(folder / "checkpoint.pt")]
    with pytest.raises(Forbidden, match="pass restore="):
        checkpoints(tmp_path, model=model_of()).load(1)

    def fail(path):
        open(path, "w").close()
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        checkpoints(tmp_path, save=fail).save(2)
    with pytest.raises(Unavailable, match="wrote nothing"):
        checkpoints(tmp_path, save=lambda path: None).save(2)
    assert [p.name for p in kept.folder.iterdir()] == ["step-1"]


def test_a_full_disk_is_refused_with_both_numbers_and_nothing_to_save_too(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2_000_000))
    with pytest.raises(Forbidden, match=r"needs about 0\.0 MB and min_free_bytes keeps 268\.4 MB free, 2\.0 MB are free"):
        checkpoints(tmp_path, model=model_of()).save(1)
    with pytest.raises(Forbidden, match="nothing to save"):
        checkpoints(tmp_path).save(1)
    (tmp_path / "checkpoints" / "r~x").rmdir()
    (tmp_path / "checkpoints" / "r~x").touch()
    with pytest.raises(Unavailable, match="no checkpoint in"):
        checkpoints(tmp_path, model=model_of()).save(1)


def test_all_checkpoints_of_a_run_stay_below_max_bytes_which_is_said_with_both_numbers(tmp_path):
    model = torch.nn.Linear(1000, 100)
    kept = Checkpoints(tmp_path, "r", "A1", Parts(model=model), ManualClock(), Limits(1_000_000, 0))
    Checkpoints(tmp_path, "other", "A0", Parts(model=model), ManualClock()).save(7)
    kept.save(1)
    kept.save(2)
    with pytest.raises(Forbidden, match=r"about 0\.4 MB beside the 0\.8 MB that are there, max_bytes allows 1\.0 MB"):
        kept.save(3)
    assert sorted(about.step for about, _ in kept.listing()) == [1, 2]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from smarttuner.core.clock import ManualClock
from smarttuner.trainer.checkpoints import Checkpoints, Parts
model = torch.nn.Linear(200, 200)
kept = Checkpoints(Path(sys.argv[1]), "r", "A1", Parts(model=model), ManualClock(1e9))
kept.save(1)
written, fsync = [], os.fsync
def die(*_):
    written.append(1)
    if len(written) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "0":
    save = torch.save
    def half(state, path):
        save(state, path)
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    torch.save = half
os.fsync = die
kept.save(2)
"""


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_kill_in_mid_write_leaves_the_last_checkpoint_whole_and_its_rest_goes_with_the_next(at, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(at)], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    model = torch.nn.Linear(200, 200)
    kept = Checkpoints(tmp_path, "r", "A2", Parts(model=model), ManualClock(1e9))
    assert [about.step for about, _ in kept.listing()] == [1]
    assert kept.load("last")[0] == 1
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) == 1
    kept.save(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]


def test_what_living_processes_and_the_job_write_is_left_alone_and_another_boots_goes_after_a_day(tmp_path):
    living = tmp_path / hidden_name(".best-", "1.A1")
    foreign = tmp_path / ".step-4.A0@00000000-1-1"
    jobs = [tmp_path / name for name in (".cache", ".best-model.pt", ".step-100", ".step-7.tmp@host-1-2", ".best-1.ckpt@a-b")]
    for path in (living, foreign, *jobs):
        path.touch()
    now = foreign.stat().st_mtime
    sweep_hidden(tmp_path, now + 10)
    assert foreign.exists()
    sweep_hidden(tmp_path, now + 90_000)
    assert (living.exists(), foreign.exists()) == (True, False)
    assert all(path.exists() for path in jobs)
    sweep_hidden(tmp_path / "nowhere", now)


def test_best_weights_that_memory_has_no_room_for_lie_on_disk_and_come_back_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("smarttuner.trainer.keep_best._available_bytes", lambda: 100)
    model = model_of()
    kept = Checkpoints(tmp_path, "r", "A1", Parts(model=model), ManualClock(), Limits(None, 0))
    keep = KeepBest(model, ManualClock(), put_aside=kept.put_aside)
    for name in "ab":
        keep.start(name, "min")
    keep.offer(1, {"a": 1.0, "b": 1.0})
    jitter(model)
    best = on_cpu(model.state_dict())
    keep.offer(2, {"a": 0.5, "b": 2.0})
    assert len(list(tmp_path.iterdir())) == 2
    jitter(model)
    keep.offer(3, {"a": 0.7, "b": 0.7})
    assert len(list(tmp_path.iterdir())) == 2  # the first went with the last who wanted it
    assert keep.restore("a").step == 2
    assert same(model.state_dict(), best)
    keep.forget()
    assert not list(tmp_path.iterdir())
    full = Checkpoints(tmp_path, "r", "A1", Parts(model=model), ManualClock(), Limits(10, 0))
    with pytest.raises(Forbidden, match="the best weights needs about"):
        full.put_aside(model.state_dict(), 1)


def test_averaged_weights_come_back_where_they_are_what_was_evaluated():
    model = torch.nn.Linear(2, 1)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    both, keep = {"model": model, "ema": average}, None
    keep = KeepBest(both, ManualClock())
    keep.start("val", "min")
    for number, value in enumerate([2.0, 1.0, 3.0]):
        jitter(model)
        average.update_parameters(model)
        if value == 1.0:
            best = [on_cpu(one.state_dict()) for one in both.values()]
        keep.offer(number, {"val": value})
    keep.restore()
    assert all(same(one.state_dict(), kept) for one, kept in zip(both.values(), best, strict=True))


def test_a_state_that_cannot_be_read_back_is_no_checkpoint(tmp_path):
    class Odd:
        def state_dict(self):
            return {"where": os.stat(".")}

    kept = checkpoints(tmp_path, model=model_of(), scheduler=Odd())
    with pytest.raises(Unavailable, match="what was saved cannot be read back"):
        kept.save(1)
    assert kept.listing() == []
    assert not list(kept.folder.iterdir())
