"""Several daemons over one log: killed, paused and woken anywhere in the loop, they end where one undisturbed daemon ends."""

import pathlib
import random
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from fleet_world import FleetWorld
from script import script_of
from smarttuner.daemon import fleet
from summary import differences, plain

SEEDS = range(1, 11)


def undisturbed(folder, seed):
    world = FleetWorld(str(folder / "undisturbed"), script_of(seed), 1)
    world.run()
    return plain(world.summary())


def disturbed(folder, seed, number):
    world = FleetWorld(str(folder / f"disturbed-{number}"), script_of(seed), 1 + number % 3, random.Random(seed * 100 + number))
    world.run()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fleet_in_trouble_ends_where_one_undisturbed_daemon_ends(tmp_path, seed):
    expected = undisturbed(tmp_path, seed)
    assert expected["applied"]
    killed = paused = 0
    for number in range(4):
        world = disturbed(tmp_path, seed, number)
        assert differences(expected, plain(world.summary())) == []
        killed, paused = killed + world.killed, paused + world.paused
    assert killed >= 5
    assert paused >= 5


def found_by(folder):
    """Whether any of the worlds differs from its undisturbed one."""
    for seed in SEEDS:
        expected = undisturbed(folder / str(seed), seed)
        for number in range(4):
            try:
                world = disturbed(folder / str(seed), seed, number)
                if differences(expected, plain(world.summary())):
                    return True
            except AssertionError:
                return True
    return False


def test_daemons_that_wake_do_send_what_is_stale_and_no_job_obeys_it(tmp_path):
    for seed in SEEDS:
        for number in range(4):
            world = disturbed(tmp_path / str(seed), seed, number)
            if sum(job.stale for job in world.jobs):
                return
    pytest.fail("nothing stale was ever sent: the fence was not tried")


def test_it_finds_state_of_which_simply_the_last_entry_wins(tmp_path, monkeypatch):
    parsed = fleet._parsed

    def without_epochs(key):
        name, epoch, owner = parsed(key)
        return (name, epoch if name == fleet.CLAIM else 1 << 30, owner)

    monkeypatch.setattr(fleet, "_parsed", without_epochs)
    assert found_by(tmp_path)


def test_it_finds_answers_that_are_not_saved_with_their_attempt(tmp_path, monkeypatch):
    entry = fleet._entry
    monkeypatch.setattr(fleet, "_entry", lambda body, folded, waiting: entry(body, folded, ()))
    assert found_by(tmp_path)


def test_it_finds_a_takeover_that_leaves_the_state_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet.Found, "attempts", property(lambda self: {}, lambda self, value: None), raising=False)
    assert found_by(tmp_path)
