"""Two processes of one job over gloo: what is decided happens on both at the same step, or on neither."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from training_faults import FAULTS, FROM_THE_START

JOB = pathlib.Path(__file__).with_name("rank_job.py")
PATIENCE_S = 500
"""For all ways together, which take two minutes where five processes want each core."""
pytestmark = pytest.mark.timeout(600)
MOST_STEPS = 20_000
"""So many steps of a few microseconds a job takes that nobody ends (rank_job.py)."""


WAYS = ("steered", "identical", "under-faults", "sharded", "framework", "dies-before-vote", "dies-after-vote")


def environment(folder):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SMART_TUNER", "TORCHELASTIC"))}
    kept |= {"XDG_STATE_HOME": str(folder), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
    kept["PYTHONPATH"] = os.pathsep.join([str(JOB.parents[2]), kept.get("PYTHONPATH", "")])
    return {name: value for name, value in kept.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def run_to_the_end(command, folder):
    """The exit code and what was said; a launcher that is late is terminated, so that it ends its workers too."""
    with subprocess.Popen(command, env=environment(folder), stderr=subprocess.PIPE, text=True) as child:
        try:
            said = child.communicate(timeout=PATIENCE_S)[1]
        finally:
            if child.poll() is None:
                child.terminate()
    return child.returncode, said


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """ended(way, *codes): what both ranks had to say (those that lived to), and what was printed."""
    folder = tmp_path_factory.mktemp("ranks")
    code, said = run_to_the_end([sys.executable, str(JOB), str(folder), *WAYS], folder)
    assert code == 0, said

    def look(way, *codes):
        printed = [(folder / f"{way}-{rank}.err").read_text() for rank in range(2)]
        assert tuple(json.loads((folder / f"{way}.codes").read_text())) == codes, "".join(printed)
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{way}-[01].json"))], printed

    return look


def test_every_order_takes_effect_at_the_same_step_on_both_ranks_with_a_straggler_among_them(ended):
    (zero, one), said = ended("steered", 0, 0)
    assert {name: ack[0] for name, ack in zero["acks"].items()} == dict.fromkeys(
        ("scale-lr", "checkpoint", "restore", "prune"), "applied"
    ), zero["acks"]
    assert zero["lrs"] == one["lrs"]
    assert [lr for _, lr in zero["lrs"]] == [0.01, 0.005]
    assert zero["lrs"][1][0] > zero["acks"]["scale-lr"][1]
    assert len(zero["saved"]) == 1
    assert zero["saved"] == one["saved"]
    assert zero["stop"] == one["stop"] == "because of prune"
    assert zero["steps"] == one["steps"]
    assert zero["best"] == one["best"] == zero["running"] == one["running"]
    assert one["attempt"] == zero["attempt"]
    assert "smart-tuner" not in said[1]
    assert "failed around the optimizer" not in said[0]


def test_weights_of_both_ranks_are_bit_identical_watched_or_not_and_whatever_of_ours_fails(ended):
    (zero, one), said = ended("identical", 0, 0)
    assert len(zero["digests"]) == 15
    assert zero["digests"] == one["digests"]
    assert set(zero["digests"].values()) == {zero["digests"]["disabled"]}
    assert "something of ours fails" in said[0]


def test_weights_of_both_ranks_are_bit_identical_whatever_is_done_to_the_process_of_both_or_of_one(ended):
    (zero, one), _ = ended("under-faults", 0, 0)
    digests = zero["digests"]
    assert len(digests) == 1 + 4 * len([*FAULTS, *FROM_THE_START])
    assert digests == one["digests"]
    assert {fault: digest for fault, digest in digests.items() if digest != digests["unwatched"]} == {}


def test_sharded_weights_are_neither_kept_nor_saved_by_one_rank_and_the_rest_works(ended):
    (zero, one), _ = ended("sharded", 0, 0)
    assert zero["lrs"] == one["lrs"]
    assert [lr for _, lr in zero["lrs"]] == [0.01, 0.005]
    assert zero["acks"]["scale-lr"][0] == "applied"
    assert zero["acks"]["checkpoint"][0] == "refused"
    assert "sharded" in zero["acks"]["checkpoint"][2]
    assert zero["acks"]["prune"][0] == "applied"
    assert "weights not restored" in zero["acks"]["prune"][2]
    assert zero["steps"] == one["steps"]
    assert zero["stop"] == one["stop"]


def test_a_framework_on_two_ranks_stops_saves_and_steps_as_one(ended):
    pytest.importorskip("transformers")
    (zero, one), _ = ended("framework", 0, 0)
    assert {name: ack[0] for name, ack in zero["acks"].items()} == dict.fromkeys(("scale-lr", "checkpoint", "prune"), "applied")
    assert zero["lrs"] == one["lrs"]
    assert [lr for _, lr in zero["lrs"]] == [0.1, 0.05]
    assert zero["saved"] == one["saved"] == [f"checkpoint-{zero['acks']['checkpoint'][1]}"]
    assert zero["steps"] == one["steps"] == zero["acks"]["prune"][1]


@pytest.mark.parametrize("way", ["dies-before-vote", "dies-after-vote"])
def test_a_rank_that_dies_between_arm_and_commit_aborts_the_order_and_hangs_nothing(way, ended):
    (zero,), _ = ended(way, 0, -9)
    assert {name: ack[0] for name, ack in zero["acks"].items()} == {"scale-lr": "failed", "prune": "failed"}
    assert all("has died" in ack[2] for ack in zero["acks"].values()), zero["acks"]
    assert zero["stop"] is None
    assert [lr for _, lr in zero["lrs"]] == [0.01]
    assert zero["longest"] < 20


def test_a_restart_names_its_parent_and_a_prune_ends_the_job_for_good(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # else gloo finds the addresses of the dead (torch 2.13)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    code, said = run_to_the_end([*torchrun, str(JOB), str(tmp_path), "restarted"], tmp_path)
    assert code == 0, said
    lives = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("life-*.json")}
    assert sorted(lives) == ["life-0-0", "life-0-1", "life-1-0", "life-1-1"], said
    first, second = lives["life-0-0"], lives["life-1-0"]
    assert first["acks"]["prune"][0] == "applied"
    assert first["stop"] == lives["life-0-1"]["stop"] == "because of prune"
    assert second["run"] == first["run"]
    assert (first["parent"], second["parent"]) == (None, first["attempt"])
    assert second["acks"] == {}
    assert second["stop"] == lives["life-1-1"]["stop"] == "decision prune ended this run before its restart"
    assert second["steps"] == lives["life-1-1"]["steps"] < MOST_STEPS
