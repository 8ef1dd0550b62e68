"""The keys that act, each shown by a test that fails when it is ignored: daemon/config_acting.py names them."""

from collections import Counter

import pytest
from smarttuner.consumers.attempt import Attempt
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.table import among, decisions
from smarttuner.core.errors import ConfigError
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, decode, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.run import RunRecord
from smarttuner.core.silence import Rhythm, Silence
from smarttuner.core.standing import Standing
from smarttuner.core.window import Subject
from smarttuner.daemon.config import load
from smarttuner.daemon.config_rules import gates, rules
from smarttuner.daemon.rule_book import RuleBook

SINKING = [2.0, 1.0, 0.9, 0.89, 0.889, 0.8889, 0.88889, 0.888889]
"""Improves by ever less."""


def read(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load(file, {}).config


def rule_of(tmp_path, policy, text):
    (found,) = [one for one in rules(read(tmp_path, text)) if one.policy.name == policy]
    return found


def steps_of(tmp_path, policy, text, values, goal="min", series="val_loss"):
    """The steps at which the configured policy speaks."""
    return [one.step for one in decisions(values, rule_of(tmp_path, policy, text).policy, goal, series)]


def strategy(name, options):
    return f"early_stopping: {{strategies: {{{name}: {{{options}}}}}}}"


def test_another_language_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"core_engine\.language"):
        read(tmp_path, "core_engine: {language: julia}")


def test_another_framework_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"core_engine\.framework"):
        read(tmp_path, "core_engine: {framework: jax}")


@pytest.mark.parametrize(
    ("wanted", "meant"), [(">=3.11", True), (">=3.11,<4", True), (">3.99", False), ("==2.7", False), ("!=3", False)]
)
def test_a_python_that_is_not_meant_is_refused(tmp_path, wanted, meant):
    if meant:
        assert read(tmp_path, f'core_engine: {{python_version: "{wanted}"}}').core_engine.python_version == wanted
    else:
        with pytest.raises(ConfigError, match="does not allow Python"):
            read(tmp_path, f'core_engine: {{python_version: "{wanted}"}}')


@pytest.mark.parametrize(("patience", "first"), [(2, 3), (4, 5)])
def test_patience_is_counted_in_points(tmp_path, patience, first):
    text = strategy("patience_based", f"patience: {patience}, min_delta: 0")
    assert steps_of(tmp_path, "patience", text, [3, 2] + [2] * 6)[0] == first


@pytest.mark.parametrize(("min_delta", "speaks"), [("1e-9", False), ("0.5", True)])
def test_min_delta_says_what_an_improvement_is(tmp_path, min_delta, speaks):
    text = strategy("patience_based", f"patience: 3, min_delta: {min_delta}")
    assert bool(steps_of(tmp_path, "patience", text, SINKING)) is speaks


@pytest.mark.parametrize("mode", ["min", "max"])
def test_mode_says_whether_low_or_high_is_better(tmp_path, mode):
    rule = rule_of(tmp_path, "patience", strategy("patience_based", f"mode: {mode}, patience: 3"))
    assert rule.goal == mode
    spoke = decisions([1.0, 2.0, 3.0, 4.0, 5.0], rule.policy, rule.goal)
    assert bool(spoke) is (mode == "min")


@pytest.mark.parametrize("restore", ["true", "false"])
def test_restore_best_weights_asks_the_job_to_keep_them(tmp_path, restore):
    policy = rule_of(tmp_path, "patience", strategy("patience_based", f"patience: 2, restore_best_weights: {restore}")).policy
    order = policy.standing_order("val_loss", "min")
    asked = decisions([1, 2, 2, 2], policy)[0].params
    assert (order is not None, asked.get("restore")) == ((True, "best") if restore == "true" else (False, None))


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_the_plateau_factor_is_the_decided_one(tmp_path, factor):
    rule = rule_of(tmp_path, "plateau", strategy("plateau_detection", f"factor: {factor}, patience: 1"))
    assert decisions([1, 1, 1, 1], rule.policy)[0].params == {"factor": factor}


@pytest.mark.parametrize(("patience", "first"), [(1, 2), (3, 4)])
def test_the_plateau_patience_lets_points_pass(tmp_path, patience, first):
    text = strategy("plateau_detection", f"patience: {patience}, cooldown: 0")
    assert steps_of(tmp_path, "plateau", text, [1] * 8)[0] == first


@pytest.mark.parametrize(("threshold", "speaks"), [("1e-9", False), ("0.2", True)])
def test_the_plateau_threshold_is_relative_to_the_best(tmp_path, threshold, speaks):
    text = strategy("plateau_detection", f"threshold: {threshold}, patience: 3")
    assert bool(steps_of(tmp_path, "plateau", text, SINKING)) is speaks


@pytest.mark.parametrize(("cooldown", "steps"), [(0, [2, 4, 6]), (2, [2, 6])])
def test_the_plateau_cooldown_keeps_still(tmp_path, cooldown, steps):
    text = strategy("plateau_detection", f"patience: 1, cooldown: {cooldown}")
    assert steps_of(tmp_path, "plateau", text, [1] * 8) == steps


@pytest.mark.parametrize(("percent", "first"), [(0.5, 5), (20, 3)])
def test_the_least_improvement_is_asked_for(tmp_path, percent, first):
    text = strategy("improvement_threshold", f"min_improvement_percent: {percent}, evaluation_window: 2")
    assert steps_of(tmp_path, "improvement", text, SINKING)[0] == first


@pytest.mark.parametrize("window", [2, 5])
def test_the_improvement_is_taken_over_the_window(tmp_path, window):
    text = strategy("improvement_threshold", f"min_improvement_percent: 0.5, evaluation_window: {window}")
    spoken = decisions([2.0] + [1.0] * 9, rule_of(tmp_path, "improvement", text).policy)
    assert spoken[0].step == 1 + window


@pytest.mark.parametrize(
    ("options", "values", "speaks"),
    [
        ("points: 1", [1.0] * 20 + [9.0], True),
        ("points: 3", [1.0] * 20 + [9.0], False),
        ("points: 1, width: 1e9", [1.0, 1.1] * 10 + [9.0], False),
        ("points: 1, rise_percent: 2000", [1.0] * 20 + [9.0], False),
        ("not_finite: 1", [1.0, float("nan")], True),
        ("not_finite: 2", [1.0, float("nan")], False),
    ],
)
def test_divergence_has_its_own_options(tmp_path, options, values, speaks):
    assert bool(steps_of(tmp_path, "divergence", strategy("divergence", options), values)) is speaks
    alert = rule_of(tmp_path, "divergence", strategy("divergence", "then: alert")).policy
    assert decisions([1.0, float("nan")], alert)[0].action == "alert"


TALL = [9, 8, 7, 6, 5, 4.5, 4, 3.8, 3.6, 3.4, 3.2, 3]
SLOW = [9, 8.5, 8.2, 8.15, 8.1, 8.05, 8, 7.9, 7.8, 7.7, 7.6, 7.5]


def speaks_among(tmp_path, policy, options, others):
    """Whether the configured policy speaks at the last point of a slow run beside the others."""
    rule = rule_of(tmp_path, policy, strategy(policy, options)).policy
    return rule.judge(among(SLOW, {f"peer{i}": other for i, other in enumerate(others)}, rule)) is not None


@pytest.mark.parametrize(
    ("options", "speaks"),
    [
        ("doublings: 1", True),
        ("doublings: 20", False),
        ("doublings: 1, after: 20", False),
        ("doublings: 20, margin_percent: 0", False),
        ("doublings: 20, margin_percent: 200", True),
        ("doublings: 10, credit: 0", False),
        ("doublings: 20, credit: 0.9", True),
    ],
)
def test_extrapolation_has_its_own_options(tmp_path, options, speaks):
    assert speaks_among(tmp_path, "extrapolation", options, [TALL]) is speaks


@pytest.mark.parametrize(("options", "speaks"), [("peers: 2", True), ("peers: 3", False), ("peers: 2, after: 20", False)])
def test_median_has_its_own_options(tmp_path, options, speaks):
    assert speaks_among(tmp_path, "median", options, [TALL, TALL]) is speaks


@pytest.mark.parametrize(("options", "speaks"), [("factor: 2", True), ("factor: 1.1", False), ("factor: 2, after: 20", False)])
def test_halving_has_its_own_options(tmp_path, options, speaks):
    assert speaks_among(tmp_path, "halving", options, [TALL, TALL, [10] * 12]) is speaks


def test_stall_has_its_own_options(tmp_path):
    rhythm, subject = Rhythm("sdk", 9, heard=1000.0, gaps=[40.0, 30.0, 20.0]), Subject("r", "a", "val_loss")

    def policy(options):
        return rule_of(tmp_path, "stall", strategy("stall", options)).policy

    assert policy("min_silence_s: 5m").allows_s(rhythm) == 300.0
    assert policy("min_silence_s: 5m, factor: 30").allows_s(rhythm) == 600.0
    assert policy("first_metric_s: 2h").allows_s(Rhythm()) == 7200.0
    silence = Silence(subject, rhythm, deadline=1600.0, now=1600.0)
    assert [policy(one).at_silence(silence).action for one in ("then: prune", "then: alert")] == ["prune", "alert"]


@pytest.mark.parametrize(
    ("gate", "values", "action"),
    [
        ("min_alignment_score: 0.85", [0.5] * 12, "alert"),
        ("min_alignment_score: 0.45", [0.5] * 12, None),
        ("max_acceptable_loss: 2.0", [3.0] * 12, "alert"),
        ("max_acceptable_loss: 4.0", [3.0] * 12, None),
        ("audio_quality_threshold: 3.5", [3.0] * 12, "alert"),
        ("audio_quality_threshold: 2.5", [3.0] * 12, None),
        ("g: {series: x, min: 0, max: 2, then: prune}", [3.0] * 12, "prune"),
        ("g: {series: x, min: 4, max: 9, then: prune}", [3.0] * 12, "prune"),
        ("g: {series: x, max: 2, after: 2}", [3.0] * 3, "alert"),
        ("g: {series: x, max: 2, after: 5}", [3.0] * 3, None),
        ("g: {max: 2, goal: max}", [3.0] * 12, None),
    ],
)
def test_a_quality_gate_is_looked_at_as_written(tmp_path, gate, values, action):
    name = gate.partition(":")[0]
    rule = rule_of(tmp_path, f"quality_gate.{name}", f"early_stopping: {{quality_gates: {{{gate}}}}}")
    series = {"min_alignment_score": "alignment_score", "audio_quality_threshold": "audio_quality_score"}
    assert rule.series == series.get(name, "x" if "series" in gate else None)
    spoken = decisions(values, rule.policy, "min", rule.series or "val_loss")
    assert [one.action for one in spoken[:1]] == ([action] if action else [])


def modes(config):
    return {one.policy.name: one.mode for one in rules(config)}


def test_unnamed_policies_have_the_default_mode(tmp_path):
    assert set(modes(read(tmp_path, "policies: {default: act}")).values()) == {"act"}
    unnamed = modes(read(tmp_path, "{}"))
    assert {"divergence", "stall", "extrapolation"} <= set(unnamed)
    assert not {"patience", "plateau"} & set(unnamed)
    assert set(unnamed.values()) == {"observe"}


def test_a_named_policy_has_its_own_mode(tmp_path):
    text = """
early_stopping:
  strategies: {patience_based: {}, plateau_detection: {}, divergence: {}}
  quality_gates: {min_score: 1}
policies: {patience: {mode: observe}, divergence: {mode: off}, improvement: {}, quality_gate: {mode: observe}}
"""
    expected = {"patience": "observe", "plateau": "act", "improvement": "act", "quality_gate.min_score": "observe"}
    expected |= {"stall": "observe", "extrapolation": "observe"}
    assert modes(read(tmp_path, text)) == expected


def test_options_of_a_policy_win_over_its_section(tmp_path):
    text = strategy("patience_based", "patience: 6") + "\npolicies: {patience: {options: {patience: 2, series: mel_loss}}}"
    rule = rule_of(tmp_path, "patience", text)
    assert (rule.policy.patience, rule.policy.min_delta, rule.series) == (2, 0.001, "mel_loss")


@pytest.mark.parametrize(("then", "action"), [("", "prune"), (", then: alert", "alert")])
def test_a_rule_of_conditions_does_what_is_written(tmp_path, then, action):
    rule = rule_of(tmp_path, "mine", f"policies: {{mine: {{when: 'patience(patience=2) & ~divergence', series: mel_loss{then}}}}}")
    assert [(one.step, one.action, one.policy) for one in decisions([3, 2, 2, 2], rule.policy)] == [(3, action, "mine")]
    assert (rule.series, rule.mode) == ("mel_loss", "act")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("{patience: observe}", "{patience: {mode: observe}}"),
        ("{patience: off}", "{patience: {mode: off}}"),
        ("{patience: false}", "{patience: {mode: off}}"),
        ("{patience: {patience: 3, mode: observe}}", "{patience: {mode: observe, options: {patience: 3}}}"),
        ("{patience: {patience: 3, mode: max}}", "{patience: {options: {patience: 3, mode: max}}}"),
        ("{divergence: {then: alert}}", "{divergence: {options: {then: alert}}}"),
        ("{patience: {min_delta: 1e-3, options: {patience: 3}}}", "{patience: {options: {min_delta: 0.001, patience: 3}}}"),
    ],
)
def test_the_short_forms_mean_the_long_ones(tmp_path, short, long):
    assert rules(read(tmp_path, f"policies: {short}")) == rules(read(tmp_path, f"policies: {long}"))


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("{}", "eval_loss"),
        ("monitoring: {aliases: {val_loss: [my/loss]}}", "my/loss"),
        ("monitoring: {aliases: {val_loss: []}}", None),
    ],
)
def test_a_series_goes_by_the_written_names(tmp_path, text, judged):
    attempt = Attempt(Standing(RunRecord("r", "a")), RuleBook(read(tmp_path, text)), "val_loss")
    rows = [Series(name, [0], [1.0], [100.0]) for name in ("my/loss", "eval_loss")]
    attempt.note(MetricChunk("r", "a", "sdk", 0, rows))
    assert (attempt.monitor if attempt.monitor in attempt.series else None) == judged


def decision(action="prune"):
    return Decision("i", "r", "a", action, "patience", "sdk:1", "why", 1000.0, 1000.0)


def test_decisions_expire_after_the_written_time(tmp_path):
    gated = gates(read(tmp_path, "decisions: {not_after_s: 2m}"))(decision(), Standing(RunRecord("r", "a")), "act")
    assert gated.not_after == 1000.0 + 120


def test_the_rate_limit_is_the_written_one(tmp_path):
    pass_through = gates(read(tmp_path, "limits: {decisions_per_hour: 2}"))
    standing = Standing(RunRecord("r", "a"))
    answers = [pass_through(decision("checkpoint"), standing, "act") for _ in range(3)]
    assert [one.status for one in answers] == ["pending", "pending", "refused"]
    assert "limits.decisions_per_hour" in answers[2].refused_by


@pytest.mark.parametrize(("primary", "alerts"), [("val_loss", True), ("mel_loss", False)])
def test_the_primary_series_is_judged_and_no_other(tmp_path, primary, alerts):
    config = read(
        tmp_path, f"monitoring: {{metrics: {{primary: {primary}}}}}\nearly_stopping: {{quality_gates: {{max_acceptable_loss: 2}}}}"
    )
    judge = Judge(RuleBook(config), gates(config), config.monitoring.metrics.primary, config.decisions.not_after_s)
    steps = list(range(20))
    series = [
        Series(name, steps, [value] * 20, [100.0 + i for i in steps]) for name, value in (("val_loss", 5.0), ("mel_loss", 1.0))
    ]
    bodies = [
        (RUNS, encode(RunEvent("r", "a", "started", 100.0, 0, started=Started()))),
        (METRICS, encode(MetricChunk("r", "a", "sdk", 1, series))),
    ]
    records = [Record(topic, 0, i, "r", body, 101.0 + i) for i, (topic, body) in enumerate(bodies)]
    events = [decode(one.body) for one in judge.handle(records, 103.0)]
    assert any(isinstance(one, Decision) and one.action == "alert" for one in events) is alerts


def test_policies_that_a_job_states_wrongly_are_counted_once_an_attempt(tmp_path):
    counters = Counter()
    book = RuleBook(read(tmp_path, ""), counters)
    for attempt in ("a", "a", "b"):
        assert book(RunRecord("r", attempt, said=Started(policies={"patienc": {}}))).rules == rules(read(tmp_path, ""))
    book(RunRecord("r", "c", said=Started(policies={"patience": {"patience": 3}})))
    assert counters == {"policies_refused": 2}
