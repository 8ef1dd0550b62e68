"""Seeds × kills: whatever is killed wherever, the end is the one of an undisturbed world. And bugs planted there are found."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(600)  # each took up to 180 s where ten processes wanted two cores
HERE = pathlib.Path(__file__).parent
SEEDS = ["1,2,3", "4,5,6", "7,8,9", "10,11,12"]
PLANTED = re.findall(r"^        (\w+),$", (HERE / "planted.py").read_text(), re.MULTILINE)
WANTED = {"prune pending", "scale-lr pending", "keep-best pending", "alert applied", "dead_letters", "acks", "metrics", "runs"}
SWITCHED = {"paused", "hold"}
"""Of each three seeds one has somebody who pauses and holds."""


def simulate(*arguments, script="runner.py"):
    """A process of its own: it forks, and pytest's has threads."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580, env=environ)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("seeds", SEEDS)
def test_wherever_it_is_killed_the_end_is_the_undisturbed_one(seeds):
    report = simulate("random", seeds, 30)
    assert report["differences"] == []
    assert report["broken"] == []
    assert report["kills"] >= 3 * 30
    assert report["shown"].keys() >= WANTED
    assert report["shown"].keys() & SWITCHED


@pytest.mark.parametrize("part", range(6))
def test_a_kill_before_any_line_of_the_loop_changes_nothing(part):
    report = simulate("lines", "1,3", part, 6)
    assert report["differences"] == []
    assert report["kills"] == report["lines"] > 300
    assert report["shown"].keys() >= WANTED | {"set-lr pending", "release-lr pending", "restore pending", "checkpoint pending"}


def test_a_state_that_is_lost_between_kills_changes_no_decision_and_no_effect():
    report = simulate("lost-state", "1,3,9", 20)
    assert report["differences"] == []
    assert report["kills"] >= 3 * 20


@pytest.mark.parametrize("first", range(0, len(PLANTED), 4))
def test_a_planted_bug_is_found(first):
    found = simulate("planted", ",".join(PLANTED[first : first + 4]), 9, 150)
    assert len(found) > 1
    assert [name for name, report in found.items() if not report["differences"]] == []


@pytest.mark.parametrize("seeds", ["1,2", "3,4"])
def test_stores_that_share_a_folder_are_killed_paused_and_wake_up_late_and_it_ends_as_with_one_undisturbed(seeds):
    report = simulate("run", seeds, 25, script="fleet.py")
    assert report["broken"] == []
    assert report["lives"] > 12
    assert report["continued"] > 20


def test_a_fence_that_does_not_hold_is_found():
    found = simulate("planted", "fence_taken_away,folder_made_again", "1,2,3,4", 25, script="fleet.py")
    assert [name for name, broken in found.items() if not broken] == []
