"""A fleet on Apache Kafka for fault tests: hosts with a daemon and jobs each, one store for all, and what must hold at the end."""

import json
import pathlib
import re
import time
from collections import Counter

import pandas
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.consumers.judge import Judge
from smarttuner.core.clock import SystemClock
from smarttuner.core.events import Ack, Claim, Decision, decode
from smarttuner.core.ports import CONTROL, METRICS, RUNS
from smarttuner.daemon.config import load
from smarttuner.daemon.config_rules import gates
from smarttuner.daemon.rule_book import RuleBook
from workplace import Daemon, Workplace, until

JOB = pathlib.Path(__file__).parent / "integration" / "kafka" / "fleet_job.py"
PARTITIONS = 6
SESSION_MS = 6000
DESCENT, PATIENCE = 3, 4
PRUNED_AT = 5 * (DESCENT + PATIENCE)
CONFIG = """
limits: {{decisions_per_hour: 100000}}
decisions: {{not_after_s: 3600}}
store: {{publish_s: 0.2, url: "{store}"}}
bus:
  kafka:
    partitions: {partitions}
    client: {{session.timeout.ms: {session_ms}}}
"""


class Fleet:
    """Hosts that share a broker and a store. `bootstrap` is how they reach it, `direct` how this process does."""

    session_ms = SESSION_MS

    def __init__(self, folder, prefix, bootstrap, direct=None):
        self.folder, self.prefix = folder, prefix
        self.bootstrap, self.direct = bootstrap, direct or bootstrap
        self.store = folder / "store"
        self.hosts, self.jobs = {}, []

    def host(self, name):
        """A host with a home of its own; its daemon is `host.daemon` once `start` was called."""
        host = self.hosts[name] = Host(self.folder / name)
        config = CONFIG.format(store=self.store, partitions=PARTITIONS, session_ms=self.session_ms)
        host.config.write_text(config)
        host.of_daemon = {"SMART_TUNER_BUS": f"kafka://{self.bootstrap}", "SMART_TUNER__BUS__KAFKA__PREFIX": self.prefix}
        return host

    def shut(self):
        for host in self.hosts.values():
            host.shut()

    def judged(self, *hosts):
        """Whether these hosts' daemons, and no others, judge the partitions, each once and evenly."""
        owners = Counter()
        for host in hosts:
            said = host.daemon.ask()
            epochs = said["bus"]["judged_here"] if said else {}
            if not PARTITIONS // len(hosts) <= len(epochs) <= -(-PARTITIONS // len(hosts)):
                return False
            owners.update(epochs.keys())
        return len(owners) == PARTITIONS and set(owners.values()) == {1}

    def wait_judged(self, *hosts, timeout_s=120.0):
        until(lambda: self.judged(*hosts), timeout_s, 0.1, self.told)

    def told(self):
        """What the daemons say, for a failed wait."""
        said = {}
        for name, host in self.hosts.items():
            answer = host.daemon.ask() if host.daemon is not None and host.daemon.alive else None
            said[name] = {k: answer[k] for k in ("jobs", "bus", "problems", "counters")} if answer else host.said()[-1500:]
        return json.dumps(said, indent=1, default=str)

    # what was written down

    def lines(self, name):
        return [line for job in self.jobs for line in job.lines(name)]

    def prunes(self):
        """How many prunes the jobs have applied so far."""
        return sum(1 for one in self.lines("decisions") if one["action"] == "prune" and one["status"] == "applied")

    def more_prunes(self, count, timeout_s=120.0):
        """Waits until the loop has closed `count` times more."""
        wanted = self.prunes() + count
        until(lambda: self.prunes() >= wanted, timeout_s, 0.1, self.told)

    def end(self):
        """The jobs end, all of theirs is stored, the daemons end; the attempts as the jobs wrote them down."""
        for job in self.jobs:
            job.tell_to_end()
        for job in self.jobs:
            assert job.ended() == 0, job.said()
        serving = [host for host in self.hosts.values() if host.daemon is not None and host.daemon.alive]
        until(lambda: all((said := h.daemon.ask()) and said["jobs"] == 0 for h in serving), 120.0, 0.2, self.told)
        attempts = self.lines("runs")
        until(lambda: self._stored(attempts), 120.0, 0.5, self.told)
        for host in serving:
            assert host.daemon.stop() == 0, host.said()
        return attempts

    def _stored(self, attempts):
        """Whether the end of each attempt and an answer to each decision is in the store."""
        runs, decisions = self.table("runs"), self.table("decisions")
        over = set(runs[runs["state"] != "running"]["attempt"]) if len(runs) else set()
        return {one["attempt"] for one in attempts} <= over and not (len(decisions) and (decisions["status"] == "pending").any())

    def table(self, name):
        folder = self.store / name
        return pandas.read_parquet(folder) if folder.is_dir() and any(folder.glob("*.parquet")) else pandas.DataFrame()


class Host(Workplace):
    """A workplace whose daemon is one of a fleet; its jobs know nothing of Kafka."""

    def __init__(self, folder):
        super().__init__(folder)
        self.daemon = None
        self.of_daemon = {}

    def start(self):
        self.begin().daemon.ready()
        return self

    def begin(self):
        """Starts the daemon, and does not wait until it answers."""
        self.daemon = Daemon(self, **self.of_daemon)
        return self

    def stream(self, name, **options):
        return self.job(name, JOB, descent=DESCENT, patience=PATIENCE, **options)


def check_metrics(fleet, attempts):
    """Every point that was logged is stored once, with its value, in the order in which it was logged."""
    rows = fleet.table("metrics")
    assert not rows.duplicated(["attempt", "source", "seq"]).any(), "a point is stored twice"
    assert not rows.duplicated(["attempt", "series", "step"]).any(), "a step is stored twice"
    by_attempt = dict(tuple(rows.groupby("attempt")))
    assert set(by_attempt) >= {one["attempt"] for one in attempts if one["logged"]}
    for one in attempts:
        if not one["logged"]:
            continue
        mine = by_attempt[one["attempt"]].sort_values("seq")
        assert mine["partition"].nunique() == 1
        assert mine["offset"].is_monotonic_increasing, f"{one['run']}: offsets do not rise with seq"
        for number, series in enumerate("xyz"):
            found = mine[mine["series"] == series]
            assert found["step"].tolist() == list(range(one["logged"])), f"{one['run']} {series}: steps are missing"
            assert found["value"].tolist() == [step * 8.0 + number for step in range(one["logged"])]
        losses = mine[mine["series"] == "val_loss"]
        assert losses["step"].tolist() == list(range(5, one["logged"] + 1, 5)), f"{one['run']}: evaluations are missing"


def undisturbed(fleet):
    """What one judge that nobody disturbed concludes from the whole log: its decisions by id; and the log's own records of
    `control`, in offset order by partition."""
    host = next(iter(fleet.hosts.values()))
    config = load(host.config, host.environment).config
    judge = Judge(RuleBook(config), gates(config), config.monitoring.metrics.primary, config.decisions.not_after_s)
    log = KafkaLog(KafkaSettings(fleet.direct, prefix=fleet.prefix, partitions=PARTITIONS), SystemClock())
    bus, found, control = log.connect(), {}, {}
    try:
        ends = log.clerk.ends([(topic, number) for topic in (METRICS, RUNS, CONTROL) for number in range(PARTITIONS)])
        at = dict.fromkeys(ends, 0)
        deadline = time.monotonic() + 120.0
        while any(at[place] < end for place, end in ends.items()):
            assert time.monotonic() < deadline, (at, ends)
            batch = bus.poll((METRICS, RUNS, CONTROL), "undisturbed", lambda partition: 0, 2000, 1.0)
            for record in batch.records:
                at[record.topic, record.partition] = record.offset + 1
                if record.topic == CONTROL:
                    control.setdefault(record.partition, []).append(decode(record.body))
            for message in judge.handle(batch.records, time.time()) if batch.records else ():
                event = decode(message.body)
                if isinstance(event, Decision):
                    found[event.id] = event
        return found, control
    finally:
        bus.close()
        log.close()


def check_decisions(fleet, attempts, promised=()):
    """The verdicts are those of an undisturbed judge and those known in advance; each took effect once."""
    table = fleet.table("decisions").astype(object)
    rows = {row["id"]: row for row in table.where(table.notna(), None).to_dict("records")}
    assert len(rows) == len(fleet.table("decisions")), "a decision is stored twice"
    expected, control = undisturbed(fleet)
    assert set(rows) == set(expected)
    for name, one in expected.items():
        row = rows[name]
        said = (one.run, one.attempt, one.policy, one.action, one.step, one.reason, one.mode)
        assert said == tuple(row[key] for key in ("run", "attempt", "policy", "action", "step", "reason", "mode"))
    prunes = [row for row in rows.values() if row["action"] == "prune"]
    assert {row["step"] for row in prunes} <= {PRUNED_AT}
    assert len(prunes) == len({row["attempt"] for row in prunes})
    assert {row["attempt"] for row in prunes if row["status"] == "applied"} == {o["attempt"] for o in attempts if o["pruned"]}
    told = fleet.lines("decisions")
    assert {name: times for name, times in Counter(one["id"] for one in told).items() if times > 1} == {}, "answered twice"
    applied = {one["id"] for one in told if one["status"] == "applied"}
    assert applied == {name for name, row in rows.items() if row["status"] == "applied"}
    assert {name: rows[name]["status"] for name in promised} == dict.fromkeys(promised, "applied")
    assert len(fleet.lines("checkpoints")) == len(promised), "a checkpoint by hand was made twice or never"
    check_control(control)


def check_said(fleet, outages):
    """No daemon repeats a complaint: each kind of line stands at most once an outage in its log."""
    for name, host in fleet.hosts.items():
        lines = [line for line in host.said().splitlines() if line.startswith(("WARNING", "ERROR")) and " ALERT " not in line]
        kinds = Counter(re.sub(r"0x[0-9a-f]+|\d+", "#", line.split(" (and ")[0]) for line in lines)
        often = {kind: times for kind, times in kinds.items() if times > outages}
        assert not often, f"{name} says it again and again: {often}"


def check_control(control):
    """Epochs of claims rise, and an answer of a job stands under one status only."""
    answers = {}
    for events in control.values():
        first = [one.epoch for one in events if isinstance(one, Claim)]
        assert first, "a partition was never claimed"
        for one in events:
            if isinstance(one, Ack):
                answers.setdefault(one.id, set()).add(one.status)
    assert {name: said for name, said in answers.items() if len(said) > 1} == {}
