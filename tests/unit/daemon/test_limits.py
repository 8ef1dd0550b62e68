"""What a group may lose to policies, from the configuration's words to the reason in the decision."""

import pytest
from smarttuner.consumers.judge import Judge
from smarttuner.consumers.policies.patience import Patience
from smarttuner.consumers.rules import Rule
from smarttuner.core import events
from smarttuner.core.events import Ack, Decision, MetricChunk, Request, RunEvent, Series, Started
from smarttuner.core.ports import CONTROL, METRICS, RUNS, Record
from smarttuner.core.rungs import RungMeasure
from smarttuner.core.standing import HOUR_S
from smarttuner.daemon.config import load
from smarttuner.daemon.config_rules import gates

START = 1_700_000_000.0
STOPS = Rule(Patience(patience=2), None, "act")


class Behind:
    """Ends a run that is not the best of its group at the last closed rung: the least that a judgement by peers can be."""

    name, version = "behind", 1

    def measures(self, subject):
        return [RungMeasure(subject.goal)]

    def screen(self, columns):
        return None

    def judge(self, seen):
        if seen.peers is None or not (seen.peers.at() < seen.peers.own()).any():
            return None
        return seen.decide((self.name, self.version), "prune", "a peer is better")


class World:
    """Judges one partition's log as it grows, a second a record, with the limits of a configuration."""

    def __init__(self, tmp_path, text="{}", rules=(STOPS,)):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        self.gates, self.rules = gates(load(file, {}).config), list(rules)
        self.records, self.seq = [], {}
        self.judge = self.make()

    def make(self, **options):
        return Judge(lambda record: self.rules, self.gates, **options)

    def add(self, topic, event, after=1.0):
        time = (self.records[-1].time if self.records else START) + after
        offset = sum(one.topic == topic for one in self.records)
        self.records.append(Record(topic, 0, offset, "k", events.encode(event), time))
        said = [events.decode(message.body) for message in self.judge.handle(self.records[-1:], time)]
        return [event for event in said if isinstance(event, Decision)]

    def start(self, *runs, group="g"):
        for run in runs:
            said = Started(monitor="val_loss", goal="min", allow=["prune"])
            self.add(RUNS, RunEvent(run, run.upper(), "started", START, seq=0, group=group, started=said))

    def point(self, run, value=2.0, step=None, group="g", after=1.0):
        seq = self.seq[run] = self.seq.get(run, 0) + 1
        series = [Series("val_loss", [seq if step is None else step], [value], [self.records[-1].time])]
        return self.add(METRICS, MetricChunk(run, run.upper(), "sdk", seq, series, group=group), after)

    def stuck(self, run, group="g"):
        """Four equal evaluations: the third is one too many."""
        return [one for _ in range(4) for one in self.point(run, group=group)]

    def ended(self, run, group="g", state="finished"):
        self.add(RUNS, RunEvent(run, run.upper(), "ended", START, seq=1000, group=group, state=state))

    def begin_again(self, lost):
        """As after a kill; `lost`: without the state, whose log is a backlog by now."""
        bodies, body = self.judge.changes(list(self.judge.attempts))
        if lost:
            self.judge = self.make(not_after_s=0.0)
            self.judge.handle(self.records, self.records[-1].time + 1000.0)
            self.judge._not_after_s = 600.0
        else:
            self.judge = self.make()
            self.judge.load(bodies, body)


def told(decisions):
    return [(one.run, one.status, one.refused_by) for one in decisions]


LAST = "limit: no other run of group g is left (limits.never_last_of_group)"


@pytest.mark.parametrize(
    ("text", "status", "why"), [("{}", "refused", LAST), ("limits: {never_last_of_group: false}", "pending", None)]
)
def test_the_last_live_run_of_a_group_is_ended_only_where_that_is_written(tmp_path, text, status, why):
    world = World(tmp_path, text)
    world.start("a", "b")
    world.start("c", group="other")
    assert told(world.stuck("a")) == [("a", "pending", None)]
    assert told(world.stuck("b")) == [("b", status, why)]  # a is not over yet, but about to be


def test_a_run_without_a_group_is_no_last_one(tmp_path):
    world = World(tmp_path)
    world.start("a", group=None)
    assert told(world.stuck("a", group=None)) == [("a", "pending", None)]


def test_a_person_ends_the_last_run_of_a_group(tmp_path):
    world = World(tmp_path, "limits: {prunes_per_hour: 0}")
    world.start("a")
    (by_hand,) = world.add(CONTROL, Request("q", "a", "prune", "ann", START, group="g"))
    assert by_hand.status == "pending"


@pytest.mark.parametrize("lost", [None, False, True])
def test_a_refusal_that_lasts_is_told_once_and_the_run_is_ended_when_another_one_has_come(tmp_path, lost):
    world = World(tmp_path)
    world.start("a")
    (refused,) = world.stuck("a")
    world.add(CONTROL, refused)
    if lost is not None:
        world.begin_again(lost)
    for _ in range(5):
        assert world.point("a", after=100.0) == []
    world.start("b")
    assert told(world.point("a", after=100.0)) == [("a", "pending", None)]


def test_another_attempt_of_the_same_run_is_no_company_and_one_that_is_heard_of_again_is(tmp_path):
    world = World(tmp_path)
    world.start("a", "b")
    world.add(RUNS, RunEvent("a", "A2", "started", START, seq=0, group="g", started=Started(monitor="val_loss", allow=["prune"])))
    world.ended("b", state="lost")
    assert told(world.stuck("a")) == [("a", "refused", LAST)]
    world.add(RUNS, RunEvent("b", "B", "note", START, seq=1001, group="g", text="here again"))
    assert told(world.point("a", after=100.0)) == [("a", "pending", None)]


@pytest.mark.parametrize("answer", ["refused", "expired"])
def test_who_was_to_be_ended_and_goes_on_is_company_again(tmp_path, answer):
    world = World(tmp_path)
    world.start("a", "b")
    (prune,) = world.stuck("a")
    assert told(world.stuck("b"))[0][1] == "refused"
    world.add(RUNS, Ack(prune.id, "a", "A", answer, START, group="g"))
    assert told(world.point("b", after=100.0)) == [("b", "pending", None)]


def limit(number, of):
    return f"limit: {number} prunes an hour in {of} (limits.prunes_per_hour)"


@pytest.mark.parametrize(("text", "sent"), [("{}", 5), ("limits: {prunes_per_hour: 2}", 2), ("limits: {prunes_per_hour: 0}", 0)])
@pytest.mark.parametrize(("group", "of"), [("g", "group g"), (None, "the runs without a group")])
def test_a_group_loses_as_many_runs_an_hour_as_written(tmp_path, text, sent, group, of):
    world = World(tmp_path, text)
    world.start(*"abcdef", group=group)
    world.start("z", "y", group="other")
    got = [world.stuck(run, group) for run in "abcde"]
    assert [one[0].status for one in got] == ["pending"] * sent + ["refused"] * (5 - sent)
    assert [one[0].refused_by for one in got[sent:]] == [limit(sent, of)] * (5 - sent)
    other = world.stuck("z", "other")
    assert other[0].status == ("refused" if sent == 0 else "pending")


@pytest.mark.parametrize("lost", [None, False, True])
def test_the_hour_is_one_of_the_log_and_known_behind_a_kill(tmp_path, lost):
    world = World(tmp_path, "limits: {prunes_per_hour: 1}")
    world.start(*"abc")
    (first,) = world.stuck("a")
    world.add(CONTROL, first)
    if lost is not None:
        world.begin_again(lost)
    assert [one.refused_by for one in world.stuck("b")] == [limit(1, "group g")]
    wait = first.time + HOUR_S - world.records[-1].time
    assert world.point("b", after=wait - 1.0) == []
    assert told(world.point("b", after=61.0)) == [("b", "pending", None)]


def test_what_is_only_observed_or_held_counts_for_no_limit(tmp_path):
    world = World(tmp_path, "limits: {prunes_per_hour: 1}")
    world.start(*"abc")
    world.add(CONTROL, Request("q", "a", "hold", "ann", START, group="g"))
    assert world.stuck("a")[0].refused_by.startswith("hold: ")
    assert told(world.stuck("b")) == [("b", "pending", None)]


def test_attempts_that_go_to_another_daemon_take_their_prunes_along(tmp_path):
    world = World(tmp_path, "limits: {prunes_per_hour: 1}")
    world.start(*"abc")
    world.stuck("a")
    bodies, _ = world.judge.changes(list(world.judge.attempts))
    world.judge.drop(0)
    groups = world.judge._docket.groups
    assert (groups._of, groups._left, groups._prunes) == ({}, {}, {})
    world.judge.take(0, {name: (body, {}) for name, body in bodies.items()}, b"")
    assert told(world.stuck("b")) == [("b", "refused", limit(1, "group g"))]


@pytest.mark.parametrize(("share", "steps"), [(0.0, 40), (0.5, 52), (0.9, 92)])
def test_peers_end_a_run_behind_the_written_share_of_their_progress(tmp_path, share, steps):
    world = World(tmp_path, f"limits: {{min_peer_progress: {share}}}", [Rule(Behind(), None, "act")])
    world.start("leader", "a", "b")
    for step in range(1, 102):
        world.point("leader", 1.0, step)
    got = []
    for step in range(38, 100, 2):
        got += [(step, one) for one in world.point("a", 2.0, step, after=100.0)]
    assert [(step, one.status) for step, one in got if one.status == "pending"] == [(steps, "pending")]
    refused = [one for _, one in got if one.status == "refused"]
    if share == 0.0:
        assert refused == []
    else:
        (first,) = refused
        asked = f"{share:.0%} is asked for (limits.min_peer_progress)"
        assert first.refused_by == f"limit: at 40% of its furthest peer's progress, {asked}"


def test_a_judgement_of_its_own_asks_for_no_progress_of_peers(tmp_path):
    world = World(tmp_path, "limits: {min_peer_progress: 1}", [Rule(Behind(), None, "observe"), STOPS])
    world.start("leader", "a")
    for step in range(1, 102):
        world.point("leader", 1.0 / step, step)
    assert ("patience", "pending") in {(one.policy, one.status) for one in world.stuck("a")}
