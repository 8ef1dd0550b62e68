"""Seeds × kills: whatever is killed wherever, the end is the one of an undisturbed world. And bugs planted there are found."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
SEEDS = range(1, 13)
PLANTED = re.findall(r"^        (\w+),$", (HERE / "planted.py").read_text(), re.MULTILINE)


def simulate(*arguments):
    """A process of its own: it forks, and pytest's has threads."""
    command = [sys.executable, str(HERE / "runner.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", SEEDS)
def test_wherever_it_is_killed_the_end_is_the_undisturbed_one(seed):
    report = simulate("random", seed, 30)
    assert report["differences"] == []
    assert report["broken"] == []
    assert report["kills"] >= 30
    assert report["shown"]["acks"] > 2


@pytest.mark.parametrize("part", range(4))
def test_a_kill_before_any_line_of_the_loop_changes_nothing(part):
    report = simulate("lines", "1,3,4", part, 4)
    assert report["differences"] == []
    assert report["kills"] == report["lines"] > 150


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug):
    report = simulate("planted", bug, 1, 150)
    assert report["differences"]


def test_every_kind_of_thing_happens_in_the_worlds_that_are_killed():
    shown = simulate("shown", ",".join(map(str, SEEDS)))["shown"]
    wanted = {"prune pending", "scale-lr pending", "set-lr pending", "release-lr pending", "keep-best pending", "restore pending"}
    assert wanted | {"checkpoint pending", "alert applied", "scale-lr would", "fly refused", "dead_letters"} <= shown.keys()
