"""Rules put together from conditions: what is read, what holds, what is said, and that a replay concludes the same ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.condition_text import composite, parse
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies import REGISTRY
from smarttuner.consumers.policies.table import columns, decisions, evidence
from smarttuner.consumers.rules import KeepsBest, Rule, named, rules_from_job
from smarttuner.core.errors import UsageError
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started, decode, encode
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.window import Subject, Window
from smarttuner.daemon.gates import Gates

PATIENT = "patience(patience=2)"
LEAVES = (
    PATIENT,
    "patience(min_delta=0.5, patience=1)",
    "improvement(evaluation_window=2, min_improvement_percent=10)",
    "divergence(points=1)",
    "plateau(cooldown=1, patience=1)",
    "quality_gate(after=1, max=3)",
)
values = st.lists(st.one_of(st.sampled_from([1.0, 2.0, 3.0, 9.0, float("nan")]), st.floats(0.5, 4.0)), min_size=1, max_size=40)
texts = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda one: f"~({one})"),
        st.tuples(inner, st.sampled_from("&|"), inner).map(lambda three: f"({three[0]}) {three[1]} ({three[2]})"),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("patience", "patience"),
        (" patience ( patience = 5 , min_delta=1e-3 ) ", "patience(min_delta=0.001, patience=5)"),
        ("~ patience & plateau | divergence", "~patience & plateau | divergence"),
        ("patience | plateau & divergence", "patience | plateau & divergence"),
        ("(patience | plateau) & divergence", "(patience | plateau) & divergence"),
        ("~~patience", "patience"),
        ("~(patience & plateau)", "~(patience & plateau)"),
        ("((patience))", "patience"),
        ("patience(mode=max, restore_best_weights=true)", 'patience(mode="max", restore_best_weights=true)'),
        ("quality_gate(max=2, gate='x y')", 'quality_gate(gate="x y", max=2)'),
        ("patience()", "patience"),
    ],
)
def test_what_is_written_has_one_spelling(text, spelled):
    assert parse(text).text == spelled
    assert parse(spelled).text == spelled


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("patience &", 11, "a condition belongs here, not 'the end'"),
        ("patience plateau", 10, "'plateau' after the end"),
        ("(patience", 10, "the ( of character 1 is not closed"),
        ("patience)", 9, "')' after the end"),
        ("patience(patience)", 10, "an option belongs here"),
        ("patience(patience=)", 19, "a value belongs here"),
        ("patience(patience=5 min_delta=1)", 21, "a comma or a ) belongs here"),
        ("patience(patience=5, patience=6)", 22, "stands here twice"),
        ("plateau & patiense", 11, "no policy is called 'patiense'"),
        ("plateau & patience(patiense=3)", 11, "has no option 'patiense'"),
        ("plateau & patience(patience=0)", 11, "patience: 0 is not"),
        ("patience; import os", 9, "';' means nothing here"),
        ("patience and plateau", 10, "'and' after the end"),
        ("divergence(then=alert)", 1, "then is said once"),
        ("~" * 40 + "patience", 18, "deeper than 16"),
        ("(" * 40 + "patience" + ")" * 40, 18, "deeper than 16"),
        (" | ".join(["patience"] * 17), 177, "more than 16 conditions"),
        ("quality_gate", 1, "at least one of them"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place_and_a_hint(text, at, said):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.message.startswith(f"when, character {at}: ")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "  ", None, 5, "p" * 1001])
def test_what_is_no_text_at_all_is_refused(text):
    with pytest.raises(UsageError, match="when"):
        parse(text)


@settings(max_examples=80, deadline=None)
@given(texts, values)
def test_the_screen_is_exactly_where_the_rule_speaks(text, points):
    rule = composite("mine", text)
    known = columns(points, rule)
    spoke = [rule.judge(known.evidence(i)) is not None for i in range(len(known))]
    assert rule.screen(known).tolist() == spoke


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LEAVES), st.sampled_from(LEAVES), values)
def test_the_algebra_is_that_of_masks(one, other, points):
    def mask(text):
        rule = composite("mine", text)
        return rule.screen(columns(points, rule))

    a, b = mask(one), mask(other)
    assert np.array_equal(mask(f"{one} & {other}"), a & b)
    assert np.array_equal(mask(f"{one} | {other}"), a | b)
    assert np.array_equal(mask(f"~{one}"), ~a)
    assert np.array_equal(mask(f"~({one} & {other})"), mask(f"~{one} | ~{other}"))


@settings(max_examples=60, deadline=None)
@given(texts, values, st.integers(0, 40))
def test_verdicts_do_not_depend_on_how_the_points_were_cut(text, points, cut):
    rule = composite("mine", text)
    subject = Subject("run", "attempt", "val_loss", "min")
    window = Window(subject, rule.measures(subject))
    found = []
    for start, end in ((0, min(cut, len(points))), (min(cut, len(points)), len(points))):
        steps = range(start, end)
        known = window.extend("sdk", steps, (steps, points[start:end], [1_700_000_000.0 + i for i in steps]), 1_700_000_100.0)
        if known is not None:
            found += [one.id for i in range(len(known)) if (one := rule.judge(known.evidence(i))) is not None]
    assert found == [one.id for one in decisions(points, rule)]


def test_a_condition_that_ends_or_alerts_is_asked_at_every_point_where_it_holds():
    rule = composite("mine", "quality_gate(after=1, max=1)", "alert")
    assert [one.step for one in decisions([0.5, 2.0, 2.0, 0.5, 2.0], rule)] == [1, 2, 4]


def test_the_reason_is_put_together_from_those_of_the_conditions():
    rule = composite("mine", f"{PATIENT} & (divergence | plateau(patience=1)) & ~quality_gate(max=3, after=0)", "alert")
    (first, *_) = decisions([3.0, 2.0, 2.0, 2.0], rule)
    assert first.reason == (
        "val_loss no better than 2 for 2 evaluations (best at step 1), and val_loss not below 2 by 0.01 % for 2 evaluations, "
        "and quality_gate(after=0, max=3) does not hold"
    )
    assert first.evidence["when"] == rule.condition.text
    assert (first.action, first.policy, first.params) == ("alert", "mine", {})


def test_the_same_rule_concludes_the_same_ids_and_another_one_others():
    points = [3.0, 2.0, 2.0, 2.0]

    def first_id(text, then="prune"):
        return decisions(points, composite("mine", text, then))[0].id

    assert first_id("patience(patience=2, min_delta=0)") == first_id(" patience( min_delta=0,patience=2 ) ")
    different = {
        first_id(PATIENT),
        first_id("patience(patience=1)"),
        first_id(f"{PATIENT} | divergence"),
        first_id(PATIENT, "alert"),
    }
    assert len(different) == 4
    assert composite("mine", PATIENT).version == composite("other", PATIENT).version


def test_a_rule_asks_for_the_best_weights_where_a_condition_does():
    rule = composite("mine", "patience(patience=2, restore_best_weights=true) & ~divergence")
    assert isinstance(rule, KeepsBest)
    assert rule.standing_order("val_loss", "min") == {"series": "val_loss", "goal": "min", "min_delta": 0.0}
    assert decisions([3, 2, 2, 2], rule)[0].params == {"restore": "best"}
    assert composite("mine", PATIENT).standing_order("val_loss", "min") is None


def test_measures_that_two_conditions_need_are_kept_once():
    subject = Subject("run", "attempt", "val_loss")
    assert len(composite("mine", "patience(patience=2) | patience(patience=9)").measures(subject)) == 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("patience", {"when": "divergence"}, "is the name of a policy"),
        ("my rule", {"when": "divergence"}, "is no name of a rule"),
        ("mine", {"when": "divergence", "then": "explode"}, "neither prune nor alert"),
        ("mine", {"when": "divergence", "than": "prune"}, "did you mean then"),
        ("mine", {"when": "diverge"}, "did you mean divergence"),
        ("mine", {"when": "patience & ~stall"}, "looks at the time between points"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(name, options, said):
    with pytest.raises(UsageError, match=said):
        named(name, options, "act")


def test_a_job_may_state_a_rule_too():
    (rule,) = rules_from_job({"mine": {"when": f"{PATIENT} & ~divergence", "then": "alert", "series": "train_loss"}})
    assert (rule.policy.name, rule.series, rule.mode, rule.policy.then) == ("mine", "train_loss", "act", "alert")
    assert rule.policy.judge(evidence([3, 2, 2, 2], rule.policy)).action == "alert"


def steps_of_the_worst(policy):
    """The steps at which a policy speaks of the last of five runs of a group, the others having ended well before it."""
    one = Judge(lambda record: [Rule(policy, None, "observe")], Gates())
    records = []
    for number in range(5):
        run, steps = f"r{number}", list(range(1, 201))
        points = Series("val_loss", steps, [9.0 if number == 4 else 5.0 / step for step in steps], [1.7e9] * len(steps))
        events = [
            (RUNS, RunEvent(run, run, "started", 1.7e9, 0, "g", started=Started(monitor="val_loss", goal="min"))),
            (METRICS, MetricChunk(run, run, "sdk", 1, [points], "g")),
            (RUNS, RunEvent(run, run, "ended", 1.7e9, 900, "g", state="finished")),
        ]
        records += [
            Record(topic, 0, 3 * number + i, "g", encode(each), 1.7e9 + 3 * number + i) for i, (topic, each) in enumerate(events)
        ]
    found = [decode(message.body) for message in one.handle(records, 1.7e9 + 60)]
    return [(each.run, each.step, each.reason) for each in found if isinstance(each, Decision)]


@pytest.mark.parametrize("name", ["median", "halving", "extrapolation"])
def test_a_policy_that_compares_runs_is_a_condition_too(name):
    ((run, step, reason),) = steps_of_the_worst(REGISTRY.make(name))
    assert steps_of_the_worst(composite("mine", f"{name} & ~divergence")) == [
        (run, step, f"{reason}, and divergence does not hold")
    ]
    assert run == "r4"
    assert steps_of_the_worst(composite("mine", f"{name} & ~{name}")) == []
