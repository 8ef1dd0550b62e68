"""`smart-tuner demo` on this machine's own log: what the README says of it, and that it leaves nothing behind."""

import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from smarttuner.consumers.reading import last_points, run_rows
from smarttuner.daemon.cli.main import run
from smarttuner.trainer.tacotron2.checkpoint_files import found_at
from smarttuner.trainer.tacotron2.wav import read_wav
from workplace import until

COMMAND = (sys.executable, "-m", "smarttuner.daemon.cli.main", "demo")


STEPS = 120
"""Half of what the command takes by itself: it reads by then, though not as well."""


def environment(cache):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SMART_TUNER")}
    return kept | {"XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(600)  # on a machine that is busy
def test_it_shows_what_the_readme_says(demo_cache, tmp_path):
    """One run for all that is claimed, for it takes its time."""
    folder = tmp_path / "data"
    command = [*COMMAND, "--data-dir", str(folder), "--steps", str(STEPS)]
    done = subprocess.run(command, env=environment(demo_cache), capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    decisions = pd.read_parquet(folder / "decisions")
    each_training_met_the_end_that_its_settings_earn(folder, done.stdout, decisions)
    a_checkpoint_was_written_when_it_was_asked_for(decisions)
    the_good_training_reads_and_how_well_it_speaks_is_said(folder, done.stdout)
    what_is_printed_to_look_further_works(folder, done.stdout, decisions)


def values_of(folder):
    """The last values by run and series."""
    points = last_points(folder)
    return {row["run"]: {name: one["value"] for name, one in points[row["attempt"]].items()} for row in run_rows(folder)}


def each_training_met_the_end_that_its_settings_earn(folder, printed, decisions):
    assert {row["run"]: row["state"] for row in run_rows(folder)} == {"good": "finished", "hot": "pruned", "slip": "pruned"}
    applied = decisions[decisions["status"] == "applied"]
    ended = {row.run: (row.policy, json.loads(row.params)) for row in applied[applied["action"] == "prune"].itertuples()}
    assert ended["slip"][0] == "quality_gate.hopeless"
    assert ended["hot"] == ("patience", {"restore": "best"})
    lowered = applied[(applied["action"] == "scale-lr") & (applied["run"] == "hot")]
    assert list(lowered["policy"].unique()) == ["plateau"]
    assert all(json.loads(row.after) == pytest.approx(json.loads(row.before) / 2, rel=0.2) for row in lowered.itertuples())
    assert "restored step" in printed
    assert re.search(r"slip .*: pruned at step \d+ of \d+: \d\d % of its compute saved", printed)
    assert printed.count("ALERT") >= 2


def a_checkpoint_was_written_when_it_was_asked_for(decisions):
    (asked,) = decisions[decisions["action"] == "checkpoint"].itertuples()
    assert (asked.run, asked.status) == ("good", "applied")
    _, state = found_at(pathlib.Path(json.loads(asked.after)), pytest.fail)
    assert state["step"] == asked.applied_step


def the_good_training_reads_and_how_well_it_speaks_is_said(folder, printed):
    good = values_of(folder)["good"]
    assert good["alignment_score"] >= 0.6  # chance and stuck attention stay below 0.1
    assert good["val_loss"] < values_of(folder)["hot"]["val_loss"]
    walks = "it walks the texts in order" if good["alignment_score"] >= 0.85 else "it does not walk the texts in order yet"
    assert f"alignment_score {good['alignment_score']:.2f} of 1: {walks}" in printed
    assert f"audio_quality_score {good['audio_quality_score']:.2f} of 5" in printed
    assert 1.0 <= good["audio_quality_score"] <= 5.0
    spoken = re.findall(r"^  (/.*\.wav)  \"[a-z ]+\"$", printed, re.M)
    assert len(spoken) == 4
    for path in spoken:
        samples, rate = read_wav(pathlib.Path(path))
        assert rate == 22050
        assert 0.5 < len(samples) / rate < 8
        assert math.isfinite(float(samples.square().mean()))
    (picture,) = re.findall(r"^  (/.*alignment\.png) ", printed, re.M)
    assert pathlib.Path(picture).read_bytes().startswith(b"\x89PNG")


def what_is_printed_to_look_further_works(folder, printed, decisions):
    (page,) = re.findall(r"^The curves with the decisions on them: (.*)$", printed, re.M)
    assert "<svg" in pathlib.Path(page).read_text()
    (line,) = [one for one in printed.splitlines() if "import pandas" in one]
    read = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    assert len(read.stdout.splitlines()) == len(decisions) + 1
    metrics = pd.read_parquet(folder / "metrics")
    assert not metrics.duplicated(["attempt", "series", "seq"]).any()


def those_of(folder):
    """The processes that work in a data directory."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("SMART_TUNER_DATA_DIR") == str(folder) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            continue
    return found


def test_interrupted_it_takes_its_processes_with_it(demo_cache, tmp_path):
    folder, said = tmp_path / "data", tmp_path / "said"
    with said.open("wb") as out:
        demo = subprocess.Popen([*COMMAND, "--data-dir", str(folder)], env=environment(demo_cache), stdout=out, stderr=out)
    try:
        while "the trainings load" not in said.read_text():
            assert demo.poll() is None, said.read_text()
            time.sleep(0.05)
        while len(those_of(folder)) != 4:  # what a library runs while it loads is there for a moment
            assert demo.poll() is None, said.read_text()
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(100) == 130, said.read_text()
        assert not those_of(folder)
        assert "Traceback" not in said.read_text()
    finally:
        demo.terminate()
        demo.wait()


def test_killed_it_leaves_nothing_running(demo_cache, tmp_path):
    folder = tmp_path / "data"
    with (tmp_path / "said").open("wb") as out:
        demo = subprocess.Popen([*COMMAND, "--data-dir", str(folder)], env=environment(demo_cache), stdout=out, stderr=out)
    try:
        until(lambda: those_of(folder))
        assert demo.poll() is None
    finally:
        demo.kill()
        demo.wait()
    until(lambda: not those_of(folder))


def test_without_its_extra_it_says_what_to_install_before_anything_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert run(["demo", "--data-dir", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert "needs espeakng_loader" in said
    assert 'pip install "smart-tuner[tacotron2]"' in said
    assert not (tmp_path / "data").exists()
