"""The own loader: what a scalar means is decided by the model, and nothing that is nested, long or repeated gets out of hand."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smarttuner.core.errors import ConfigError
from smarttuner.daemon.config import load
from smarttuner.daemon.config_yaml import MAX_NODES, parse


def config(tmp_path, text, environ=None):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load(file, environ or {}).config


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-5", 1e-5), ("1E-5", 1e-5), (".5", 0.5), ("012", 12.0), ("1_000", 1000.0), ("'0.25'", 0.25), ("+3", 3.0)],
)
def test_a_number_is_a_number_however_it_is_written(tmp_path, written, read):
    text = f"early_stopping: {{strategies: {{patience_based: {{min_delta: {written}}}}}}}"
    assert config(tmp_path, text).early_stopping.strategies.patience_based.min_delta == read


@pytest.mark.parametrize(("written", "read"), [("012", 12), ("1e3", 1000), ("6.0", 6), ('"6"', 6), ("1_000", 1000)])
def test_a_whole_number_is_never_octal(tmp_path, written, read):
    text = f"early_stopping: {{strategies: {{patience_based: {{patience: {written}}}}}}}"
    assert config(tmp_path, text).early_stopping.strategies.patience_based.patience == read


@pytest.mark.parametrize(("written", "read"), [("on", True), ("Yes", True), ("TRUE", True), ("off", False), ("no", False)])
def test_a_word_is_a_flag_where_the_model_asks_for_one(tmp_path, written, read):
    assert config(tmp_path, f"resources: {{gpu: {{allow_growth: {written}}}}}").resources.gpu.allow_growth is read


@pytest.mark.parametrize("written", ["on", "yes", "007", "1e-5", "2.10", "true", "2026-01-01", "0x1F", "12:30"])
def test_a_word_stays_the_word_where_the_model_asks_for_text(tmp_path, written):
    assert config(tmp_path, f"monitoring: {{metrics: {{primary: {written}}}}}").monitoring.metrics.primary == written


def test_keys_are_words_too(tmp_path):
    tree = parse("on: 1\n012: 2\n1e-5: 3\n", "f").tree
    assert list(tree) == ["on", "012", "1e-5"]


def test_where_no_model_says_what_it_wants_the_value_is_read_as_it_looks(tmp_path):
    text = "search_space:\n  x:\n    type: choice\n    choices: [16, 1e-3, on, true, '16', ~]\n"
    choices = config(tmp_path, text).search_space["x"].choices
    assert choices == [16, 0.001, "on", True, "16", None]
    assert [type(one) for one in choices] == [int, float, str, bool, str, type(None)]


def test_durations_and_sizes_take_units(tmp_path):
    bus = config(tmp_path, "bus: {retention_s: 2h, retention_bytes: 64MiB}").bus
    assert (bus.retention_s, bus.retention_bytes) == (7200.0, 64 * 1024**2)
    bus = config(tmp_path, "bus: {retention_s: 90, retention_bytes: 1.5 GB}").bus
    assert (bus.retention_s, bus.retention_bytes) == (90.0, 1_500_000_000)


def test_every_value_knows_its_line():
    document = parse("a:\n  b: 1\n  c:\n    - 2\n    - d: 3\n", "f")
    assert document.places == {
        ("a",): "f:1",
        ("a", "b"): "f:2",
        ("a", "c"): "f:3",
        ("a", "c", 0): "f:4",
        ("a", "c", 1): "f:5",
        ("a", "c", 1, "d"): "f:5",
    }


def test_anchors_and_merges_are_followed_and_own_keys_win():
    tree = parse("base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\n", "f").tree
    assert tree["one"] == {"x": "1", "y": "3"}
    assert tree["two"] == tree["base"]


def test_a_billion_laughs_are_refused_quickly():
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    started = time.process_time()
    with pytest.raises(ConfigError, match=f"more than {MAX_NODES} values"):
        parse("\n".join(lines), "f")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 20_000, "\n".join(" " * i + "a:" for i in range(300)), "- " * 5000])
def test_deep_nesting_is_refused(text):
    with pytest.raises(ConfigError, match="nested deeper than"):
        parse(text, "f")


def test_nesting_through_aliases_is_refused():
    lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(ConfigError, match="nested deeper than"):
        parse("\n".join(lines), "f")


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "---\n", "\ufeff", "~\n"])
def test_an_empty_file_means_the_defaults_and_says_so(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    loaded = load(file, {})
    assert loaded.config == type(loaded.config)()
    assert loaded.warnings == [f"{file}: is empty: the defaults apply"]


def test_an_empty_section_means_its_defaults(tmp_path):
    strategies = config(tmp_path, "monitoring:\nearly_stopping:\n  strategies:\n    patience_based:\n").early_stopping.strategies
    assert strategies.patience_based.patience == 6
    assert strategies.plateau_detection is None


def said_of(text):
    """The tree of `text`, or what is said about it."""
    try:
        return parse(text, "f").tree
    except ConfigError as error:
        return str(error)


@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab:{}[]-&*!<,'\"\n #|>$~?%@`", max_size=60)))
def test_any_text_is_a_tree_or_a_config_error(text):
    said = said_of(text)
    assert isinstance(said, dict) or said.startswith("f:")
