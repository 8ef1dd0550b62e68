"""Checkpoint files: whole or not at all, packed, pruned, refused where damaged."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import zstandard
from smarttuner.core.errors import CorruptData, Unavailable, UsageError
from smarttuner.trainer.tacotron2.checkpoint_files import CheckpointFolder, Saver, found_at, read_folder
from smarttuner.trainer.tacotron2.settings import Saving

STATE = {"weights": torch.arange(6.0), "step": 3, "names": ["a", "b"]}


def opened(tmp_path, **saving):
    files = CheckpointFolder(tmp_path / "c", Saving(**saving))
    files.open()
    return files


@pytest.mark.parametrize(
    ("compression", "name", "plain"),
    [
        ("none", "checkpoint.pt", bytes),
        ("gzip", "checkpoint.pt.gz", gzip.decompress),
        ("zstd", "checkpoint.pt.zst", lambda raw: zstandard.ZstdDecompressor().decompress(raw)),
    ],
)
def test_a_state_comes_back_and_common_tools_read_the_file(tmp_path, compression, name, plain):
    path = opened(tmp_path, compression=compression).write(3, STATE, None, False)
    assert torch.equal(read_folder(path)["weights"], STATE["weights"])
    raw = plain((path / name).read_bytes())
    assert torch.load(io.BytesIO(raw), weights_only=True)["names"] == ["a", "b"]


def test_the_newest_are_kept_and_the_best_besides(tmp_path):
    files = opened(tmp_path, keep=2)
    for step in range(1, 7):
        files.write(step, STATE, 1.0, best=step == 2)
    assert files.steps() == [2, 5, 6]
    assert files.best() == 2


def test_a_damaged_one_is_told_and_the_one_before_it_taken(tmp_path):
    files = opened(tmp_path)
    for step in (1, 2):
        files.write(step, STATE | {"step": step}, None, False)
    file = tmp_path / "c" / "step-2" / "checkpoint.pt"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    told = []
    path, state = files.latest(told.append)
    assert (path.name, state["step"]) == ("step-1", 1)
    assert "step-2 is damaged" in told[0]
    with pytest.raises(CorruptData, match="damaged"):
        found_at(tmp_path / "c" / "step-2", pytest.fail)


def test_where_none_is_whole_nothing_is_taken(tmp_path):
    files = opened(tmp_path)
    (files.write(1, STATE, None, False) / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"no checkpoint in .* is whole"):
        files.latest(lambda text: None)
    with pytest.raises(UsageError, match="there is no checkpoint"):
        found_at(tmp_path / "nowhere", pytest.fail)


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    files = opened(tmp_path)
    path = files.write(1, {"weights": Bomb()}, None, False)
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        read_folder(path)
    assert not (tmp_path / "ran").exists()


def test_two_trainings_do_not_share_a_folder(tmp_path):
    files = opened(tmp_path)
    with pytest.raises(UsageError, match="another training writes there"):
        opened(tmp_path)
    files.close()
    opened(tmp_path)


def test_a_copy_is_saved_and_not_what_the_training_makes_of_it_meanwhile(tmp_path):
    files = opened(tmp_path)
    saver = Saver(files, pytest.fail)
    weights = torch.zeros(200_000)
    for step in range(1, 4):
        weights.fill_(step)
        saver.save(step, {"weights": weights}, None, False)
        weights.fill_(-1)
    saver.close()
    assert [float(read_folder(tmp_path / "c" / f"step-{step}")["weights"].unique()) for step in (1, 2, 3)] == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_is_told_and_stops_nothing(tmp_path):
    files = opened(tmp_path)
    told = []
    saver = Saver(files, told.append)
    (tmp_path / "c" / "step-1").write_text("in the way")
    (tmp_path / "c").chmod(0o500)
    files.folder = tmp_path / "c" / "lock" / "below"
    saver.save(1, STATE)
    saver.close()
    (tmp_path / "c").chmod(0o700)
    assert saver.failures == 1
    assert "step 1" in told[0]


WRITER = """
import sys, torch
from pathlib import Path
from smarttuner.trainer.tacotron2.checkpoint_files import CheckpointFolder
from smarttuner.trainer.tacotron2.settings import Saving
files = CheckpointFolder(Path(sys.argv[1]), Saving(keep=2, compression="gzip"))
files.open()
step = max(files.steps(), default=0)
while True:
    step += 1
    files.write(step, {"weights": torch.full((1_000_000,), float(step)), "step": step}, 1.0 / step, True)
    print(step, flush=True)
"""


def test_a_kill_inside_the_write_leaves_the_last_one_whole(tmp_path):
    """Killed at ever later moments of a write: what was reported is there and whole, and the next start clears up."""
    folder = tmp_path / "c"
    for delay in (0.01, 0.03):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        first = int(writer.stdout.readline())
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        reported = int(([first, *map(int, writer.stdout.read().split())])[-1])
        writer.wait()
        writer.stdout.close()
        files = CheckpointFolder(folder, Saving(keep=2))
        _, state = files.latest(pytest.fail)
        assert state["step"] >= reported
        assert float(state["weights"].unique()) == state["step"]
        for step in files.steps():
            read_folder(folder / f"step-{step}")
        files.open()
        assert not list(folder.glob(".step-*"))
        files.close()
