"""The table of what acts holds exactly the keys of the models, and every key of the seed's file is in it."""

import pathlib

import pytest
import smarttuner
from smarttuner.daemon.config import Config, load
from smarttuner.daemon.config_acting import TABLE, leaves
from smarttuner.daemon.config_keys import keys
from smarttuner.daemon.config_yaml import parse

SEED = pathlib.Path(smarttuner.__file__).parent / "configs/enhanced-smart-tuner.yaml"
PATHS = [one.path for one in keys(Config)]


def test_each_key_of_the_models_has_one_fate():
    for path in PATHS:
        rows = [row for row in TABLE if row.covers(path)]
        assert len(rows) == 1, (path, rows)
        assert bool(rows[0].test) != bool(rows[0].missing), path


def test_each_row_is_about_keys_that_there_are():
    assert [row.keys for row in TABLE if not any(row.covers(path) for path in PATHS)] == []


def test_each_key_says_what_it_means():
    assert [one.dotted() for one in keys(Config) if not one.meaning] == []


def test_each_key_of_the_seeds_file_acts_or_is_listed_with_what_is_missing():
    in_file = list(leaves(parse(SEED.read_text(), "seed").tree))
    acting = [path for path in in_file if any(row.covers(path) for row in TABLE if row.test)]
    listed = load(SEED, {}).missing
    assert len(in_file) == len(acting) + sum(one.keys for one in listed)
    assert all(one.what for one in listed)


@pytest.mark.parametrize("text", ["optimization: {primary_engine: hyperopt}", "security: {data_privacy: {anonymize_logs: true}}"])
def test_what_does_not_act_is_listed_only_where_the_file_has_it(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    (listed,) = load(file, {}).missing
    assert str(listed).startswith(listed.path + " (1 key): ")


def test_each_named_test_is_there():
    root = pathlib.Path(smarttuner.__file__).parent
    for row in TABLE:
        if row.test:
            file, _, name = row.test.partition("::")
            assert f"def {name}(" in (root / file).read_text(), row
