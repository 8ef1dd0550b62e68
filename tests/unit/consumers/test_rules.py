import pytest
from smarttuner.consumers import early_stop_controller
from smarttuner.consumers.policies import REGISTRY
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.policies.quality_gate import QualityGate
from smarttuner.consumers.rules import JudgesTheEnd, KeepsBest, Rule, combined, monitored_goal, rules_from_job
from smarttuner.core.errors import UsageError


def test_a_job_names_its_policies_and_they_act():
    (patience, divergence) = rules_from_job({"patience": {"patience": 20}, "divergence": {"series": "train_loss"}})
    assert patience == Rule(Patience(patience=20), None, "act")
    assert (divergence.policy.name, divergence.series, divergence.mode) == ("divergence", "train_loss", "act")


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"patiense": {}}, "did you mean patience"),
        ({"patience": {"patients": 3}}, "did you mean patience"),
        ({"patience": {"patience": 0}}, "patience: 0"),
        ({"patience": {"patience": True}}, "patience: True"),
        ({"patience": 20}, "not a table of options"),
        ({"patience": {"series": ""}}, "not the name of a series"),
        ({"quality_gate": {}}, "at least one of them"),
        ({"divergence": {"points": 10**9}}, "points"),
        ({"stall": {"series": "val_loss"}}, "all series of a run"),
        ({"improvement": {"evaluation_window": 10**9}}, "evaluation_window"),
    ],
)
def test_a_job_that_errs_is_told_what_and_what_to_do(policies, said):
    with pytest.raises(UsageError, match=said) as caught:
        rules_from_job(policies)
    assert caught.value.hint


def test_what_the_job_states_replaces_what_the_file_says_of_the_same_policy():
    configured = early_stop_controller.rules({})
    stated = rules_from_job({"patience": {"patience": 20}})
    found = [(r.policy.name, r.mode) for r in combined(configured, stated)]
    assert found == [*((name, "observe") for name in early_stop_controller.SHIPPED), ("patience", "act")]
    assert combined(configured, []) == configured


def test_the_goal_is_the_jobs_then_the_rules_then_min():
    rules = [Rule(Patience()), Rule(Patience(), goal="max")]
    assert monitored_goal(rules, "min") == "min"
    assert monitored_goal(rules, None) == "max"
    assert monitored_goal(rules[:1], None) == "min"


def test_what_else_a_policy_may_do_is_told_by_its_methods():
    assert [
        name for name in REGISTRY if isinstance(REGISTRY.make(name, **({"max": 1} if "gate" in name else {})), JudgesTheEnd)
    ] == ["quality_gate"]
    assert isinstance(Patience(), KeepsBest)
    assert not isinstance(QualityGate(max=1.0), KeepsBest)
