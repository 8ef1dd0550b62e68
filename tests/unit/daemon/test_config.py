"""The whole configuration: the seed's file, where a file is looked for, what a person named."""

import hashlib
import pathlib

import pytest
import smarttuner
from smarttuner.daemon.config import ConfigProblems, find, load

ROOT = pathlib.Path(smarttuner.__file__).parent
SEED = ROOT / "configs/enhanced-smart-tuner.yaml"


def test_the_seeds_file_is_shipped_byte_for_byte():
    assert hashlib.sha256(SEED.read_bytes()).hexdigest() == "ec123b4c1e477aba6a839196fc67d49592d0d82401d8c29fdc47b4cb8253fefe"


def test_the_seeds_file_is_valid_as_it_stands():
    loaded = load(SEED, {})
    assert loaded.config.search_space["learning_rate"].low == 1e-5
    assert loaded.config.early_stopping.strategies.patience_based.patience == 6
    assert [one.partition("\n")[0].rpartition(": ")[2] for one in loaded.warnings] == [
        "neptune is off",
        "slack is off",
        "discord is off",
    ]


def test_the_closed_tracker_is_said_once_when_its_token_is_there():
    loaded = load(SEED, {"NEPTUNE_API_TOKEN": "t", "SLACK_WEBHOOK": "s", "DISCORD_WEBHOOK": "d"}, strict=True)
    assert len(loaded.warnings) == 1
    assert "Neptune's hosted service closed" in loaded.warnings[0]


def test_the_small_file_is_valid_and_names_nothing_that_needs_the_outside():
    loaded = load(ROOT / "configs/small.yaml", {}, strict=True)
    assert loaded.warnings == []
    assert loaded.config.monitoring.metrics.primary == "val_loss"


def test_the_order_in_which_a_file_is_looked_for(tmp_path):
    xdg = tmp_path / "xdg/smart-tuner/config.yaml"
    home = tmp_path / "home/.config/smart-tuner/config.yaml"
    for file in (xdg, home):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    environ = {"SMART_TUNER_CONFIG": "/named.yaml", "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    assert find("stated.yaml", environ) == pathlib.Path("stated.yaml")
    assert find(None, environ) == pathlib.Path("/named.yaml")
    environ.pop("SMART_TUNER_CONFIG")
    assert find(None, environ) == xdg
    environ.pop("XDG_CONFIG_HOME")
    assert find(None, environ) == home
    home.unlink()
    assert find(None, environ) in (None, pathlib.Path("/etc/smart-tuner/config.yaml"))


def test_the_short_gates_of_the_seed_mean_what_they_say():
    gates = load(SEED, {}).config.early_stopping.quality_gates
    assert {name: (one.series, one.min, one.max, one.then, one.goal) for name, one in gates.items()} == {
        "min_alignment_score": ("alignment_score", 0.85, None, "alert", None),
        "max_acceptable_loss": (None, None, 2.0, "alert", "min"),
        "audio_quality_threshold": ("audio_quality_score", 3.5, None, "alert", None),
    }


def test_a_gate_in_long_form(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("early_stopping: {quality_gates: {loud: {series: level, max: 3, then: prune, after: 5}}}")
    gate = load(file, {}).config.early_stopping.quality_gates["loud"]
    assert (gate.series, gate.max, gate.then, gate.after) == ("level", 3.0, "prune", 5)


def test_a_default_that_breaks_a_rule_between_keys_is_told_where_the_other_key_stands(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("cicd:\n  deployment:\n    staging_threshold: 0.98\n")
    with pytest.raises(ConfigProblems, match=r"production_threshold: 0\.97 is below staging_threshold"):
        load(file, {})
