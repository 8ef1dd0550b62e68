"""One series under many names: which is judged, and that it stays the one."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smarttuner.consumers.aliases import SHIPPED, Aliases, listed_twice, merged
from smarttuner.consumers.attempt import Attempt
from smarttuner.consumers.docket import FORGET_S
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Decision, MetricChunk, RunEvent, Series, Started
from smarttuner.core.ports import METRICS, RUNS, Record
from smarttuner.core.run import RunRecord
from smarttuner.core.rungs import RungMeasure
from smarttuner.core.standing import Standing
from smarttuner.daemon.gates import Gates

START = 1_700_000_000.0


def rules(record):
    return [Rule(Patience(patience=3), None, "act")]


def attempt(monitor=None, rules=rules):
    record = RunRecord("r", "A", said=Started(monitor=monitor))
    return Attempt(Standing(record), rules, "val_loss")


def chunk(calls, seq=0):
    """One chunk of log() calls, each a dict, a second apart."""
    columns = {}
    position = 0
    for i, call in enumerate(calls):
        for name, value in call.items():
            columns.setdefault(name, []).append((i, value, START + i, position))
            position += 1
    rows = [Series(name, *(list(column) for column in zip(*points, strict=True))) for name, points in columns.items()]
    return MetricChunk("r", "A", "sdk", seq, rows)


def judged(*chunks, monitor=None):
    one = attempt(monitor)
    for each in chunks:
        one.note(each)
    return one.monitor


def test_no_shipped_name_stands_in_two_lists():
    assert listed_twice(SHIPPED) is None


def test_the_series_that_the_job_logs_under_an_alias_is_judged_under_the_jobs_own_name():
    one = attempt()
    assert one.monitor == "val_loss"
    one.note(chunk([{"loss": 3.0}, {"loss": 2.0, "eval_loss": 4.0}]))
    assert (one.monitor, list(one.windows), one.canonical("eval_loss")) == ("eval_loss", ["eval_loss"], "val_loss")
    assert one.latch(one.rules[0]) == "patience/eval_loss"


def test_the_exact_name_is_chosen_before_the_lists_order_wherever_it_stands_in_the_call():
    assert judged(chunk([{"val/loss": 1.0, "eval_loss": 1.0, "val_loss": 1.0}])) == "val_loss"
    assert judged(chunk([{"val/loss": 1.0, "eval_loss": 1.0}])) == "eval_loss"
    assert judged(chunk([{"val_loss": 1.0, "val/loss": 1.0}]), monitor="val/loss") == "val/loss"
    assert judged(chunk([{"eval_loss": 1.0, "val_loss": 1.0}]), monitor="val/loss") == "val_loss"


def test_what_was_chosen_stays_when_a_better_name_comes_later():
    assert judged(chunk([{"eval_loss": 1.0}, {"val_loss": 1.0}])) == "eval_loss"
    assert judged(chunk([{"eval_loss": 1.0}]), chunk([{}, {"val_loss": 1.0}], seq=1)) == "eval_loss"


def test_a_call_that_was_cut_in_two_is_still_one_call():
    whole = chunk([{"eval_loss": 1.0, "val_loss": 1.0}])
    first, second = events.halves(whole)
    assert judged(first, second) == judged(whole) == "val_loss"


def test_what_was_chosen_survives_a_restart():
    one = attempt()
    one.note(chunk([{"eval_loss": 1.0}]))
    back = Attempt.load(one.dump(), rules, "val_loss")
    assert (back.monitor, list(back.windows)) == ("eval_loss", ["eval_loss"])
    back.note(chunk([{}, {"val_loss": 1.0}], seq=1))
    assert back.monitor == "eval_loss"


def test_a_state_of_an_older_version_is_read():
    plain = msgspec.msgpack.decode(attempt().dump())
    del plain["found"]
    assert Attempt.load(msgspec.msgpack.encode(plain), rules, "val_loss").monitor == "val_loss"


def test_a_series_that_is_wanted_only_later_is_found_among_those_that_were_logged():
    one = attempt()
    one.note(chunk([{"eval/acc": 0.1, "train_loss": 2.0}]))
    one.adopt(lambda record: [Rule(Patience(patience=3), "val_accuracy", "act")], "val_loss")
    assert (one.judged(one.rules[0]), list(one.windows)) == ("eval/acc", ["eval/acc"])


calls = st.lists(
    st.lists(st.sampled_from(["val_loss", "eval_loss", "val/loss", "loss"]), min_size=1, max_size=4, unique=True),
    min_size=1,
    max_size=12,
)


def verdicts(records):
    one = Judge(rules, Gates())
    messages = []
    for batch in records:
        messages += one.handle(batch, START + 60)
    found = [events.decode(message.body) for message in messages]
    (known,) = one.attempts.values()
    return known.monitor, [each.id for each in found if isinstance(each, Decision)]


def test_a_name_that_is_given_up_is_judged_by_nobody_and_hides_no_other():
    """The call is cut behind its worse name, whose window goes on in the same batch as the better one's."""
    names = [["eval_loss", "val_loss"], ["val_loss"], ["val_loss", "eval_loss"], ["val_loss", "eval_loss"]]
    whole = chunk([dict.fromkeys(call, 2.0) for call in names])
    first, second = events.halves(whole)
    parts = [*events.halves(first), second]

    def records(chunks):
        return [Record(METRICS, 0, i, "r", events.encode(one), START + 1) for i, one in enumerate(chunks)]

    started = Record(RUNS, 0, 0, "r", events.encode(RunEvent("r", "A", "started", START, seq=-1, started=Started())), START)
    assert verdicts([[started], *([one] for one in records(parts))]) == verdicts([[started], records([whole])])
    assert len(verdicts([[started], records([whole])])[1]) == 1


@settings(max_examples=60, deadline=None)
@given(calls, st.lists(st.integers(1, 40), max_size=6), st.data())
def test_the_choice_and_the_verdicts_do_not_depend_on_how_the_log_was_cut(names, cuts, data):
    whole = chunk([dict.fromkeys(call, 2.0) for call in names])
    parts = [whole]
    for _ in cuts:
        parts = [
            half for one in parts for half in (events.halves(one) if one.points() > 1 and data.draw(st.booleans()) else (one,))
        ]
    started = Record(
        RUNS, 0, 0, "r", events.encode(RunEvent("r", "A", "started", START, seq=-1, started=Started(allow=["prune"]))), START
    )

    def records(chunks):
        return [Record(METRICS, 0, i, "r", events.encode(one), START + 1) for i, one in enumerate(chunks)]

    assert verdicts([[started], records([whole])]) == verdicts([[started], *([one] for one in records(parts))])
    assert verdicts([[started], records([whole])]) == verdicts([[started], records(parts)])


@pytest.mark.parametrize(
    ("wanted", "logged", "near"),
    [
        ("val_loss", ["validation-loss"], "validation-loss"),
        ("val_loss", ["reward", "lr"], None),
        ("eval_acc", ["evalAcc"], "evalAcc"),
    ],
)
def test_the_nearest_series_is_told_where_no_list_names_it(wanted, logged, near):
    assert Aliases().find(wanted, logged) is None
    assert Aliases().nearest(wanted, logged) == near


def test_a_persons_list_takes_the_place_of_the_shipped_one():
    names = Aliases(merged({"val_loss": ["my/loss"], "reward": ["eval_loss"], "wer": []}))
    assert names.names("val_loss") == ("val_loss", "my/loss")
    assert names.canonical("eval_loss") == "reward"
    assert names.names("wer") == ("wer",)
    assert listed_twice({"a": ["x"], "b": ["x"]}) == ("x", "a", "b")


class Witness:
    """Answers at each closed rung with the runs that it was shown."""

    name = "witness"
    version = 1

    def measures(self, subject):
        return [RungMeasure(subject.goal)]

    def screen(self, columns):
        return None

    def judge(self, seen):
        return seen.decide((self.name, 1), "checkpoint", "seen", evidence={"runs": list(seen.peers.runs)}) if seen.peers else None


def test_runs_that_log_one_thing_under_two_names_are_peers_until_they_are_forgotten():
    one = Judge(lambda record: [Rule(Witness(), None, "observe")], Gates())

    def put(topic, event, time):
        return one.handle([Record(topic, 0, int(time - START), "g", events.encode(event), time)], time)

    series = {"a": "val_loss", "b": "eval_loss"}
    for at, name in enumerate(series):
        put(RUNS, RunEvent(name, name.upper(), "started", START, 0, "g", started=Started()), START + at)
    for at, (name, logged) in enumerate(series.items()):
        points = Series(logged, [1, 2, 4, 8, 16], [5.0, 4.0, 3.0, 2.0, 1.0], [START] * 5)
        out = put(METRICS, MetricChunk(name, name.upper(), "sdk", 1, [points], "g"), START + 10 + at)
    assert {tuple(each.evidence["runs"]) for m in out if isinstance(each := events.decode(m.body), Decision)} == {("a",)}
    for at, name in enumerate(series):
        put(RUNS, RunEvent(name, name.upper(), "ended", START, 9, "g", state="finished"), START + 20 + at)
    one.handle([], START + 3 * FORGET_S)
    one.handle([], START + 6 * FORGET_S)
    assert one.attempts == {}


def test_best_weights_are_ordered_again_by_the_name_that_the_job_uses_with_the_best_that_is_gone():
    one = Judge(lambda record: [Rule(Patience(patience=9, restore_best_weights=True), None, "act")], Gates())
    started = RunEvent("r", "A", "started", START, seq=-1, started=Started(allow=["prune", "restore"]))
    bodies = [
        (RUNS, started),
        (METRICS, chunk([{"loss": 3.0}])),
        (METRICS, chunk([{}, {"eval_loss": 4.0}, {"eval_loss": 3.5}, {"eval_loss": float("nan")}], seq=1)),
        (METRICS, chunk([{}, {}, {}, {}, {"eval_loss": 3.0}], seq=4)),
    ]
    records = [Record(topic, 0, i, "r", events.encode(body), START + i) for i, (topic, body) in enumerate(bodies)]
    out = [events.decode(message.body) for message in one.handle(records, START + 9)]
    orders = [(each.action, each.params, each.status) for each in out if isinstance(each, Decision)]
    plain = {"goal": "min", "min_delta": 0.0}
    assert orders == [
        ("keep-best", {"series": "val_loss", **plain}, "pending"),
        ("keep-best", {"series": "eval_loss", **plain, "best": 3.5, "step": 2}, "pending"),
    ]
