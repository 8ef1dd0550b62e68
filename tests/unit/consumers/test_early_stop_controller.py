"""Each option of the seed's `early_stopping` decides something: the tests named test_seed_* fail when one is ignored."""

import copy
from importlib import resources

import pytest
import yaml
from smarttuner.consumers import early_stop_controller, param_scheduler
from smarttuner.consumers.policies.table import decisions, evidence
from smarttuner.consumers.rules import monitored_goal
from smarttuner.core.errors import UsageError

SEED = yaml.safe_load((resources.files("smarttuner") / "configs" / "enhanced-smart-tuner.yaml").read_text())["early_stopping"]


def changed(path, value):
    """The seed's section with one key set."""
    section = copy.deepcopy(SEED)
    *folders, key = path.split(".")
    inner = section
    for folder in folders:
        inner = inner[folder]
    assert key in inner, path
    inner[key] = value
    return section


def rule(section, name):
    both = [*early_stop_controller.rules(section), *param_scheduler.rules(section)]
    (one,) = [rule for rule in both if rule.policy.name == name]
    return one


def said(section, name, values, stated=None):
    """(step, action, params) of what the rule's policy answers on its series, in a run that states this goal."""
    one = rule(section, name)
    goal = monitored_goal([one], stated) if one.series is None else "min"
    return [(d.step, d.action, d.params) for d in decisions(values, one.policy, goal, one.series or "val_loss")]


def steps(section, name, values, stated=None):
    return [step for step, _, _ in said(section, name, values, stated)]


def test_seed_patience_acts():
    flat = [1.0] * 9
    assert steps(SEED, "patience", flat) == [6, 7, 8]
    assert steps(changed("strategies.patience_based.patience", 8), "patience", flat) == [8]


def test_seed_min_delta_acts():
    creeping = [1 - 0.0005 * i for i in range(8)]
    assert steps(SEED, "patience", creeping) == []  # 0.001 is passed at each third point
    assert steps(changed("strategies.patience_based.min_delta", 0.1), "patience", creeping) == [6, 7]
    assert steps(changed("strategies.patience_based.min_delta", 0.0), "patience", [1.0, *[0.9995] * 6]) == []
    assert steps(SEED, "patience", [1.0, *[0.9995] * 6]) == [6]


def test_seed_mode_acts():
    rising = [float(i) for i in range(8)]
    assert steps(SEED, "patience", rising) == [6, 7]
    assert steps(changed("strategies.patience_based.mode", "max"), "patience", rising) == []


def test_a_goal_that_the_job_states_goes_before_the_mode_of_the_file():
    rising = [float(i) for i in range(8)]
    assert steps(SEED, "patience", rising, stated="max") == []
    assert steps(changed("strategies.patience_based.mode", "max"), "patience", rising, stated="min") == [6, 7]


def test_seed_restore_best_weights_acts():
    flat = [1.0] * 7
    assert said(SEED, "patience", flat) == [(6, "prune", {"restore": "best"})]
    off = changed("strategies.patience_based.restore_best_weights", False)
    assert said(off, "patience", flat) == [(6, "prune", {})]
    order = rule(SEED, "patience").policy.standing_order("val_loss", "min")
    assert order == {"series": "val_loss", "goal": "min", "min_delta": 0.001}
    assert rule(off, "patience").policy.standing_order("val_loss", "min") is None


def test_seed_plateau_factor_acts():
    flat = [1.0] * 6
    assert said(SEED, "plateau", flat) == [(5, "scale-lr", {"factor": 0.5})]
    assert said(changed("strategies.plateau_detection.factor", 0.1), "plateau", flat) == [(5, "scale-lr", {"factor": 0.1})]


def test_seed_plateau_patience_acts():
    flat = [1.0] * 6
    assert steps(SEED, "plateau", flat) == [5]
    assert steps(changed("strategies.plateau_detection.patience", 2), "plateau", flat) == [3]


def test_seed_plateau_threshold_acts():
    creeping = [1.0 * 0.999**i for i in range(6)]
    assert steps(SEED, "plateau", creeping) == []
    assert steps(changed("strategies.plateau_detection.threshold", 0.01), "plateau", creeping) == [5]


def test_seed_plateau_cooldown_acts():
    flat = [1.0] * 20
    assert steps(SEED, "plateau", flat) == [5, 12, 19]
    assert steps(changed("strategies.plateau_detection.cooldown", 0), "plateau", flat) == [5, 10, 15]


def test_seed_min_improvement_percent_acts():
    slow = [1 - 0.001 * i for i in range(12)]  # 1 % in 10 evaluations
    assert steps(SEED, "improvement", slow) == []
    assert steps(changed("strategies.improvement_threshold.min_improvement_percent", 2.0), "improvement", slow) == [10, 11]


def test_seed_evaluation_window_acts():
    flat = [1.0] * 12
    assert steps(SEED, "improvement", flat) == [10, 11]
    assert steps(changed("strategies.improvement_threshold.evaluation_window", 11), "improvement", flat) == [11]


def gate_acts(key, series, bad, good, moved):
    name = f"quality_gate.{key}"
    assert rule(SEED, name).series == series
    assert said(SEED, name, [bad] * 13) == [(10, "alert", {})]
    assert steps(SEED, name, [good] * 13) == []
    assert steps(changed(f"quality_gates.{key}", moved), name, [good] * 13) == [10]


def test_seed_min_alignment_score_acts():
    gate_acts("min_alignment_score", "alignment_score", 0.8, 0.9, 0.95)


def test_seed_max_acceptable_loss_acts():
    gate_acts("max_acceptable_loss", None, 2.5, 1.5, 1.0)


def test_seed_audio_quality_threshold_acts():
    gate_acts("audio_quality_threshold", "audio_quality_score", 3.0, 4.0, 4.5)


def test_a_greatest_loss_says_nothing_of_a_run_that_maximises():
    policy = rule(SEED, "quality_gate.max_acceptable_loss").policy
    assert decisions([9.0] * 13, policy, "max") == []
    assert policy.at_end(evidence([9.0], policy, "max")) is None


def test_the_long_form_of_a_gate_acts_in_each_of_its_options():
    def gate(**options):
        return {"quality_gates": {"wer": {"series": "wer", **options}}}

    values = [0.5, 0.4, 0.3, 0.05]
    assert rule(gate(max=0.1), "quality_gate.wer").series == "wer"
    assert steps(gate(max=0.1), "quality_gate.wer", values) == []
    assert said(gate(max=0.1, after=1), "quality_gate.wer", values) == [(1, "alert", {})]
    assert said(gate(min=0.1, after=1), "quality_gate.wer", values) == [(3, "alert", {})]
    assert [s[:2] for s in said(gate(max=0.1, after=1, then="prune"), "quality_gate.wer", values)] == [(1, "prune"), (2, "prune")]


def test_what_is_named_acts_and_what_is_shipped_has_the_default_mode():
    def modes(section, default):
        both = [*early_stop_controller.rules(section, default), *param_scheduler.rules(section, default)]
        return {one.policy.name: one.mode for one in both}

    assert modes({}, "observe") == dict.fromkeys(early_stop_controller.SHIPPED, "observe")
    assert modes({}, "act") == dict.fromkeys(early_stop_controller.SHIPPED, "act")
    assert "divergence" in modes({}, "observe")
    named = modes(SEED, "observe")
    assert {named.pop(name) for name in early_stop_controller.SHIPPED} == {"observe"}
    assert set(named.values()) == {"act"}
    assert len(named) == 6


def test_false_turns_a_strategy_off():
    off = {"strategies": dict.fromkeys((*early_stop_controller.SHIPPED, "patience_based", "plateau_detection"), False)}
    assert early_stop_controller.rules(off) == []
    assert param_scheduler.rules(off) == []


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"strategies": {"pateince_based": {}}}, "did you mean patience_based"),
        ({"strategies": {"patience_based": {"patiense": 6}}}, "did you mean patience"),
        ({"strategies": {"patience_based": {"patience": "six"}}}, "patience: 'six' is not a whole number"),
        ({"strategies": {"patience_based": {"mode": "least"}}}, "neither min nor max"),
        ({"strategies": {"patience_based": 6}}, "not a table"),
        ({"quality_gates": {"min_alignment_scor": 1.0}}, "did you mean min_alignment_score"),
        ({"quality_gates": {"max_acceptable_loss": "low"}}, "max: 'low' is not a finite number"),
        ({"quality_gates": {"x": {"series": 3, "min": 1}}}, "not the name of a series"),
    ],
)
def test_what_cannot_be_meant_is_said_with_a_hint(section, said):
    with pytest.raises(UsageError, match=said) as caught:
        early_stop_controller.rules(section)
    assert caught.value.hint
