"""Each gate: what it lets pass, what it refuses and with which words; a learning rate leaves them as desired state."""

import msgspec
import pytest
from smarttuner.core.events import Decision, Started
from smarttuner.core.intent import LrIntent, LrPart
from smarttuner.core.run import RunRecord
from smarttuner.core.standing import PERMISSION, Standing
from smarttuner.daemon.gates import HOUR_S, Gates

NOW = 1_700_000_000.0
ALLOW = ["lr", "checkpoint", "restore", "prune"]


def standing(**said):
    return Standing(RunRecord("r", "A", said=Started(**{"allow": ALLOW, **said})))


def decision(action="prune", params=None, by=None, time=NOW):
    return Decision(f"{action}-{time}", "r", "A", action, "patience", "sdk:1", "why", time, time, params=params or {}, by=by)


def passed(one, stands=None, gates=None, mode="act"):
    return (gates or Gates())(one, stands or standing(), mode)


def said(one):
    return one.status, (one.refused_by or "").partition(":")[0]


@pytest.mark.parametrize("action", PERMISSION)
def test_what_the_job_allows_passes_and_what_it_does_not_is_refused(action):
    params = {"factor": 0.5, "value": 0.1}
    assert passed(decision(action, params)).status == "pending"
    others = [word for word in ALLOW if word != PERMISSION[action]]
    refused = passed(decision(action, params), standing(allow=others))
    assert (refused.status, refused.refused_by) == ("refused", f"permission: the job does not allow {PERMISSION[action]}")


def test_a_decision_waits_so_long_from_its_triggers_time():
    one = passed(decision(time=NOW + 5), gates=Gates(not_after_s=30))
    assert one.not_after == NOW + 35


@pytest.mark.parametrize("state", ["finished", "pruned", "failed", "lost"])
def test_nothing_reaches_an_attempt_that_is_over(state):
    stands = standing()
    stands.record = msgspec.structs.replace(stands.record, state=state)
    assert passed(decision(by="ann"), stands).refused_by == f"scope: the attempt is over ({state})"


def test_an_action_nobody_knows_is_refused():
    assert said(passed(decision("fly", by="ann"))) == ("refused", "scope")


def test_an_alert_is_no_effect_and_passes_every_gate():
    stands = standing(mode="observe", allow=["lr"])
    assert passed(decision("alert"), stands, mode="observe").status == "applied"


@pytest.mark.parametrize(("rule", "job"), [("observe", "act"), ("act", "observe"), ("observe", "observe")])
def test_the_strictest_mode_counts(rule, job):
    one = passed(decision(), standing(mode=job), mode=rule)
    assert (one.status, one.mode) == ("would", "observe")


def test_a_person_cannot_steer_a_job_that_only_observes():
    assert said(passed(decision(by="ann"), standing(mode="observe"))) == ("refused", "mode")


def test_a_policy_waits_for_the_answer_to_the_last_change_and_a_person_does_not():
    stands = standing()
    first = passed(decision("scale-lr", {"factor": 0.5}), stands)
    stands.pending[first.id] = first
    assert said(passed(decision("scale-lr", {"factor": 0.5}, time=NOW + 1), stands)) == ("refused", "pending")
    by_hand = passed(decision("set-lr", {"value": 0.1}, by="ann", time=NOW + 1), stands)
    assert by_hand.params["intent"] == {"multiplier": 1.0, "hold": 0.1, "revision": 2}


def test_the_rate_is_counted_in_an_hour_of_the_log_and_not_for_persons():
    gates, stands = Gates(decisions_per_hour=2), standing()
    times = [NOW, NOW + 60, NOW + 120, NOW + HOUR_S + 1, NOW + HOUR_S + 2]
    got = [passed(decision("checkpoint", time=time), stands, gates).status for time in times]
    assert got == ["pending", "pending", "refused", "pending", "refused"]
    assert passed(decision("checkpoint", by="ann", time=NOW + HOUR_S + 3), stands, gates).status == "pending"


def test_what_is_refused_or_only_observed_does_not_count_against_the_rate():
    gates, stands = Gates(decisions_per_hour=1), standing(allow=["lr"])
    assert said(passed(decision(), stands, gates)) == ("refused", "permission")
    assert passed(decision("scale-lr", {"factor": 0.5}), stands, gates, "observe").status == "would"
    assert passed(decision("scale-lr", {"factor": 0.5}, time=NOW + 1), stands, gates).status == "pending"


def test_what_is_remembered_of_sent_decisions_does_not_grow_without_end():
    stands = standing()
    for i in range(200):
        passed(decision("checkpoint", time=NOW + i * 600), stands)
    assert len(stands.sent) <= 7


@pytest.mark.parametrize(
    ("action", "params", "before", "after"),
    [
        ("scale-lr", {"factor": 0.5}, LrIntent(), LrIntent(0.5, None, 1)),
        ("scale-lr", {"factor": 0.5}, LrIntent(0.5, None, 1), LrIntent(0.25, None, 2)),
        ("scale-lr", {"factor": 0.5}, LrIntent(0.5, 0.2, 1), LrIntent(0.5, 0.1, 2)),
        ("set-lr", {"value": 0.01}, LrIntent(0.5, None, 1), LrIntent(0.5, 0.01, 2)),
        ("release-lr", {}, LrIntent(0.5, 0.01, 2), LrIntent(1.0, None, 3)),
    ],
)
def test_a_change_of_the_learning_rate_is_resolved_from_what_was_applied_last(action, params, before, after):
    stands = standing()
    stands.intent = before
    one = passed(decision(action, params), stands)
    assert msgspec.convert(one.params["intent"], LrIntent) == after


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("scale-lr", {}),
        ("scale-lr", {"factor": 0}),
        ("scale-lr", {"factor": -0.5}),
        ("scale-lr", {"factor": "NaN"}),
        ("scale-lr", {"factor": "Infinity"}),
        ("scale-lr", {"factor": [1]}),
        ("set-lr", {"value": 10**400}),
        ("set-lr", {"value": 1e300}),
        ("set-lr", {"factor": 0.5}),
    ],
)
def test_a_number_that_is_no_learning_rate_is_refused_and_harms_nothing(action, params):
    assert said(passed(decision(action, params, by="ann"))) == ("refused", "scope")


@pytest.mark.parametrize(("multiplier", "factor"), [(1e300, 1e300), (1e-300, 1e-300), (1e20, 1e20)])
def test_a_learning_rate_that_leaves_all_numbers_is_refused(multiplier, factor):
    stands = standing()
    stands.intent = LrIntent(multiplier)
    assert said(passed(decision("scale-lr", {"factor": factor}, by="ann"), stands)) == ("refused", "scope")


def test_a_change_of_a_part_is_resolved_from_what_holds_there_and_keeps_the_rest():
    stands = standing()
    stands.intent = LrIntent(0.5, None, 3, (LrPart("D", None, 1.0, 0.1),))
    one = passed(decision("scale-lr", {"factor": 0.5, "optimizer": "D", "groups": ["1", 0], "min_lr": 0.01}, by="ann"), stands)
    intent = msgspec.convert(one.params["intent"], LrIntent)
    assert [intent.rate(*name).hold for name in (("D", "0"), ("D", "1"), ("D", "2"), ("G", "1"))] == [0.05, 0.05, 0.1, None]
    assert (intent.rate("G", "0").multiplier, intent.min_lr, intent.revision) == (0.5, 0.01, 4)
    stands.intent = intent
    later = passed(decision("scale-lr", {"factor": 0.5}), stands)
    assert later.params["intent"]["min_lr"] == 0.01  # the floor stays
    freed = msgspec.convert(passed(decision("release-lr"), stands).params["intent"], LrIntent)
    assert freed.unchanged
    assert not freed.parts


@pytest.mark.parametrize("wrong", [{"min_lr": -1}, {"min_lr": "NaN"}, {"optimizer": ["G"]}, {"group": ""}, {"groups": ["x" * 65]}])
def test_a_part_or_a_floor_that_is_none_is_refused(wrong):
    assert said(passed(decision("scale-lr", {"factor": 0.5, **wrong}, by="ann"))) == ("refused", "scope")


def test_more_parts_than_a_page_holds_are_refused():
    stands = standing()
    for number in range(12):
        one = passed(decision("scale-lr", {"factor": 0.5, "group": number}, by="ann"), stands)
        stands.intent = msgspec.convert(one.params["intent"], LrIntent)
    one = passed(decision("scale-lr", {"factor": 0.5, "group": 12}, by="ann"), stands)
    assert "release some first" in one.refused_by


NAMED = {"groups": {"0": ["body", "head", ""]}}


@pytest.mark.parametrize("ways", [("0", "body"), ("body", "0"), (0, "body"), ("0", 0)])
def test_a_group_said_by_number_and_by_name_is_one(ways):
    stands, first, second = standing(**NAMED), *ways
    stands.intent = msgspec.convert(
        passed(decision("set-lr", {"value": 0.1, "group": first}, by="ann"), stands).params["intent"], LrIntent
    )
    half = passed(decision("scale-lr", {"factor": 0.5, "groups": [second, first]}, by="ann"), stands)
    assert half.params["groups"] == ["body"]
    stands.intent = msgspec.convert(half.params["intent"], LrIntent)
    assert stands.intent.rate("0", "0", "body").hold == 0.05
    assert len(stands.intent.parts) == 1
    freed = passed(decision("release-lr", {"group": second}, by="ann"), stands)
    assert msgspec.convert(freed.params["intent"], LrIntent).unchanged


def test_a_number_stays_one_where_no_name_means_the_same():
    several = {"groups": {"g": ["body", "head"], "d": ["head", "body", "1"]}}
    for said_of, optimizer, group, called in (
        (NAMED, None, "2", "2"),  # it has no name
        (NAMED, None, "7", "7"),
        (several, None, "0", "0"),  # two names
        (several, "g", "0", "body"),
        (several, "d", "2", "2"),  # called by another's number
        ({"groups": {"0": ["a", "a"]}}, None, "0", "0"),  # two groups
    ):
        assert standing(**said_of).group_of(optimizer, group) == called
