import math

import numpy as np
import pytest
from smarttuner.consumers.policies import REGISTRY
from smarttuner.consumers.policies.divergence import Divergence
from smarttuner.consumers.policies.improvement import Improvement
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.plateau import Plateau
from smarttuner.consumers.policies.quality_gate import QualityGate
from smarttuner.consumers.policies.stall import Stall
from smarttuner.consumers.policies.table import columns, decisions, evidence

NAN = math.nan


def steps(policy, values, goal="min"):
    return [one.step for one in decisions(values, policy, goal)]


def reasons(policy, values, goal="min"):
    return [one.reason for one in decisions(values, policy, goal)]


# -- patience


@pytest.mark.parametrize(
    ("policy", "goal", "values", "expected"),
    [
        (Patience(patience=2), "min", [3, 2, 2, 2], [3]),
        (Patience(patience=2), "max", [3, 2, 2, 2], [2, 3]),
        (Patience(patience=2, mode="min"), "max", [3, 2, 2, 2], [3]),
        (Patience(patience=2), "min", [3, 2, NAN, 2, 1, 1], [3]),
        (Patience(patience=2), "min", [3, -math.inf, 2, 2, 2], [4]),
        (Patience(patience=2, min_delta=1.0), "min", [3, 2, 2, 2, 1.5, 1.5], [2, 3]),
        (Patience(patience=1), "min", [3, 2, 1, 0], []),
    ],
)
def test_patience(policy, goal, values, expected):
    assert steps(policy, values, goal) == expected


def test_patience_says_when_there_was_no_number_at_all():
    assert reasons(Patience(patience=3), [NAN, NAN, math.inf]) == ["val_loss was not one finite number in 3 evaluations"]


def test_a_prune_by_patience_carries_its_evidence():
    (one,) = decisions([3, 2, 2.5, 2.5], Patience(patience=2, min_delta=0.01))
    assert one.reason == "val_loss no better than 2 by more than 0.01 for 2 evaluations (best at step 1)"
    shown = {key: one.evidence[key] for key in ("series", "step", "value", "best", "best_step", "since_best", "patience")}
    assert shown == {"series": "val_loss", "step": 3, "value": 2.5, "best": 2.0, "best_step": 1, "since_best": 2, "patience": 2}


# -- improvement


@pytest.mark.parametrize(
    ("percent", "goal", "values", "expected"),
    [
        (1.0, "min", [100, 99.5, 99.4, 98.4], [2]),
        (1.0, "max", [100, 100.5, 100.6, 102], [2]),
        (0.0, "min", [1, 1, 1, 0.999], [2]),
        (1.0, "min", [0, 0, 0, 0], [2, 3]),
        (1.0, "min", [-100, -100.5, -100.6, -102], [2]),
        (1.0, "min", [NAN, NAN, NAN, 5, 5, 5], [5]),
        (1.0, "min", [1e308, 0, -1e308, -1e308, -1e308], [4]),
    ],
)
def test_improvement(percent, goal, values, expected):
    assert steps(Improvement(percent, evaluation_window=2), values, goal) == expected


# -- quality gate


@pytest.mark.parametrize(
    ("policy", "values", "expected"),
    [
        (QualityGate(max=2, after=2), [9, 9, 9, 9], [2]),
        (QualityGate(max=2, after=2, then=None), [9, 9, 1, 9, 1, 9], [3]),
        (QualityGate(max=2, after=2, then="prune"), [9, 9, 1, 9, 1, 9], [3, 5]),
        (QualityGate(min=1, max=2, after=0), [1, 2, 0.99], [2]),
        (QualityGate(max=2, after=0), [1, NAN], [1]),
        (QualityGate(min=2, after=0), [math.inf], []),
        (QualityGate(max=2), [9.0] * 10, []),
    ],
)
def test_quality_gate(policy, values, expected):
    assert steps(policy, values) == expected


@pytest.mark.parametrize("then", [None, "alert", "prune"])
def test_a_gate_judges_the_end_and_only_alerts_there(then):
    policy = QualityGate(min=1, after=50, then=then)
    assert policy.at_end(evidence([0.5, 1.5], policy)) is None
    assert policy.at_end(evidence([1.5, 0.5], policy)).action == "alert"
    assert policy.at_end(evidence([1.5, NAN], policy)).reason == "val_loss ends at nan and fails its gate of at least 1"


def test_only_a_gate_that_was_told_to_prune_ends_a_run():
    assert {one.action for one in decisions([9.0] * 30, QualityGate(max=2, after=0))} == {"alert"}
    assert {one.action for one in decisions([9.0] * 30, QualityGate(max=2, after=0, then="prune"))} == {"prune"}


def test_two_gates_conclude_apart_from_one_point():
    one, other = (decisions([9.0], QualityGate(max=2, after=0, gate=gate))[0] for gate in ("a", "b"))
    assert one.id != other.id


# -- divergence

CALM = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.05]


@pytest.mark.parametrize(
    ("policy", "values", "expected"),
    [
        (Divergence(), [1, 2, NAN], [2]),
        (Divergence(), [1, math.inf], [1]),
        (Divergence(), [1, -math.inf], [1]),
        (Divergence(not_finite=2), [1, NAN, 1, NAN, NAN], [4]),
        (Divergence(points=2), [*CALM, 5, 5, 5], [9, 10]),
        (Divergence(points=2), [*CALM, 5, 1, 5, 1], []),
        (Divergence(points=2, not_finite=5), [*CALM, 5, NAN, 5], [9, 10]),
        (Divergence(points=1), [*CALM, 1.4], []),
        (Divergence(points=1, rise_percent=0, width=1), [*CALM, 1.4], [8]),
        (Divergence(points=1), [*CALM[:7], 9], []),
        (Divergence(points=1), [*[0.0] * 8, 1e-9], []),
        (Divergence(points=1), [*[1.0] * 8, 1.49, 1.51], [9]),
    ],
)
def test_divergence(policy, values, expected):
    assert steps(policy, values) == expected


def test_divergence_of_a_series_to_maximise_is_a_fall():
    assert steps(Divergence(points=1), [*CALM, 9, 0.1], "max") == [9]
    assert steps(Divergence(points=1, mode="max"), [*CALM, 9, 0.1]) == [9]


def test_divergence_tells_which():
    assert reasons(Divergence(), [1, NAN]) == ["val_loss is nan: the run diverged (last finite value 1)"]
    assert reasons(Divergence(), [math.inf]) == ["val_loss is inf: the run diverged"]
    assert reasons(Divergence(points=1), [*CALM, 5]) == [
        "val_loss 5 above its band for 1 evaluation (usual 1, edge 1.667): the run diverges"
    ]


def test_divergence_may_be_told_to_alert_only():
    assert decisions([1, NAN], Divergence(then="alert"))[0].action == "alert"


def test_healthy_noise_does_not_diverge():
    """A hundred runs of a thousand points with normal noise around a falling curve: no verdict at the defaults."""
    generator = np.random.default_rng(3)
    steps_ = np.arange(1000)
    for _ in range(100):
        values = 0.5 + 3 * np.exp(-steps_ / 100) + generator.normal(0, 0.2, 1000)
        assert not Divergence().screen(columns(values.tolist(), Divergence())).any()


# -- options


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        ("patience", {"patience": 0}, "patience"),
        ("patience", {"patience": 1.5}, "patience"),
        ("patience", {"min_delta": -1}, "min_delta"),
        ("patience", {"min_delta": NAN}, "min_delta"),
        ("patience", {"mode": "low"}, "mode"),
        ("patience", {"restore_best_weights": "no"}, "restore_best_weights"),
        ("plateau", {"factor": 1.0}, "factor"),
        ("plateau", {"factor": 0}, "factor"),
        ("plateau", {"patience": -1}, "patience"),
        ("plateau", {"threshold": 1.0}, "threshold"),
        ("plateau", {"threshold_mode": "per cent"}, "threshold_mode"),
        ("plateau", {"cooldown": None}, "cooldown"),
        ("improvement", {"min_improvement_percent": -0.5}, "min_improvement_percent"),
        ("improvement", {"evaluation_window": 0}, "evaluation_window"),
        ("quality_gate", {"min": 2, "max": 1}, "min"),
        ("quality_gate", {"max": math.inf}, "max"),
        ("quality_gate", {"max": 1, "then": "stop"}, "then"),
        ("quality_gate", {"max": 1, "after": -1}, "after"),
        ("quality_gate", {"max": 1, "gate": "g" * 65}, "gate"),
        ("divergence", {"points": 17}, "points"),
        ("divergence", {"width": 0}, "width"),
        ("divergence", {"rise_percent": -1}, "rise_percent"),
        ("divergence", {"not_finite": 0}, "not_finite"),
        ("divergence", {"then": "restore"}, "then"),
        ("stall", {"min_silence_s": 0}, "min_silence_s"),
        ("stall", {"factor": 0.5}, "factor"),
        ("stall", {"then": "restore"}, "then"),
    ],
)
def test_a_bad_option_is_named(name, options, option):
    factory = {"patience": Patience, "plateau": Plateau, "improvement": Improvement, "quality_gate": QualityGate, "stall": Stall}
    with pytest.raises(ValueError, match=f"^{option}"):
        factory.get(name, Divergence)(**options)


def test_a_threshold_in_the_series_own_unit_may_be_large():
    assert steps(Plateau(patience=0, threshold=5.0, threshold_mode="abs"), [10, 6, 4]) == [1]


def test_every_policy_is_registered_under_its_name():
    made = {name: REGISTRY.make(name, **({"max": 1.0} if name == "quality_gate" else {})) for name in REGISTRY}
    assert {name: policy.name for name, policy in made.items()} == {name: name for name in REGISTRY}
