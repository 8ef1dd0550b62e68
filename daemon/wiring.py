"""The composition root: the one file that may import everything. A Host is a daemon whose parts are put together."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .. import __version__
from ..bus.places import LOCAL_BUS, SYSTEM_FOLDER, SYSTEM_SOCKET, Place, spool_folders
from ..bus.retention import DAY_S
from ..consumers.attempt import Attempt
from ..consumers.judge import Judge
from ..consumers.metrics_store import MetricsStore
from ..consumers.notice_log import NoticeLog
from ..consumers.retention import Retention as StoreRetention
from ..consumers.store_url import open_place
from ..consumers.tenure import Place as StorePlace
from ..core.clock import SystemClock
from ..core.errors import Forbidden, Unavailable, UsageError
from ..core.events import ACTIONS, Notice, Request, decision_id, encode, spell, topic_key
from ..core.ports import CONTROL, NOTICES, Clock, Message
from ..core.registry import did_you_mean
from ..core.ulid import ulid
from .config import Config, Loaded
from .config_rules import gates
from .dead_letters import DeadLetters
from .edge import Edge, EdgeSettings
from .edge_limits import StreamLimits
from .edge_line import Peer
from .explain import Explanation
from .ground import ground_of
from .judged import judged
from .lane import Lane
from .notify import Notifier, kept
from .rule_book import RuleBook, wrong_policies
from .stores import FilesStore, PlainStore
from .subject import Subject, refusal, user_name
from .supervisor import LaneState, Supervisor
from .switch_desk import SwitchDesk

log = logging.getLogger("smarttuner.daemon")
LOOK_S = 0.5
DRAIN_S = 10.0
SINK_PAUSE_S = 0.1
LAG_LIMIT = 10_000
"""Records a lane may be behind before status says so."""


class EdgeLane:
    """The edge as something to be supervised: opened once at the door, so that trouble is said there, and made anew if it
    falls. It is the first to drain, so that what the jobs wrote is judged and stored before the process ends."""

    name = "edge"

    def __init__(self, make: Callable[[bool], Edge], clock: Clock) -> None:
        self._make, self._clock = make, clock
        self.edge = make(True)
        self.last_step_at = clock.monotonic()

    def open(self) -> None:
        """Listens from here on; InUse or Unavailable if the socket cannot be had."""
        self.edge.start()

    def run(self, stopping: threading.Event) -> None:
        """Serves until `stopping` is set; Unavailable when the edge's own thread is gone."""
        if not self.edge.alive:
            self.edge = self._make(False)
            self.edge.start()
        try:
            while not stopping.wait(LOOK_S):
                if not self.edge.alive:
                    raise Unavailable("the edge stopped serving", "its log says why; it is started again")
                self.last_step_at = self._clock.monotonic()
        finally:
            self.edge.stop(DRAIN_S)


class Host:
    """Everything one daemon is made of, not yet running."""

    def __init__(
        self,
        place: Place,
        loaded: Loaded,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        keeper: Notifier | None = None,
    ) -> None:
        self.place, self.loaded, self.clock = place, loaded, clock or SystemClock()
        self.folder = place.folder
        self.began = self.clock.monotonic()
        config = loaded.config
        self.ground = ground_of(place, config, self.clock)
        self.bus = self.ground.bus
        self._publisher, self._asked = self.bus.connect(), self.bus.connect()  # a handle a thread: ours, the queries'
        self._counters: Counter[str] = Counter()
        rules = RuleBook(config, self._counters)
        self.judge = Judge(rules, gates(config), config.monitoring.metrics.primary, config.decisions.not_after_s)
        self.store = MetricsStore(
            str(self.folder),
            self.clock,
            retention=_keep(config),
            seal_rows=config.store.seal_rows,
            publish_s=config.store.publish_s,
            place=_store_place(place, config, self.clock),
        )
        self.notices = NoticeLog()
        self.lanes = [
            Lane(
                self.judge,
                self.bus.connect,
                self.ground.judge_store(self.judge),
                self.clock,
                published=None if self.ground.shared else lambda: self.edge.edge.place_orders(),
            ),
            Lane(
                self.store,
                self.bus.connect,
                FilesStore(self.store),
                self.clock,
                pause_s=min(SINK_PAUSE_S, (config.store.publish_s or 1.0) / 4),
            ),
            Lane(self.notices, self.bus.connect, PlainStore(), self.clock, pause_s=SINK_PAUSE_S),
        ]
        settings = replace(self._settings(environ, keeper), silence_s=rules.silence_s)
        self.edge = EdgeLane(lambda first: self._edge(settings if first else replace(settings, kept={})), self.clock)
        self.letters = DeadLetters(self.bus.connect, self.ground.letter_partitions, self.clock)
        ground = self.ground
        self.desk = SwitchDesk(self.judge.switches, self._asked, self.clock, ground.partitions, lambda: ground.judged_here)
        self._supervisor: Supervisor | None = None
        self._tell_damage()

    def watched_by(self, supervisor: Supervisor) -> None:
        """Who knows how the lanes' threads are."""
        self._supervisor = supervisor

    @property
    def runners(self) -> list[EdgeLane | Lane]:
        """What is supervised, in the order in which it drains."""
        return [self.edge, *self.lanes]

    def _edge(self, settings: EdgeSettings) -> Edge:
        return Edge(self.bus, settings, self.clock, self.answer, self.welcome)

    def _settings(self, environ: Mapping[str, str], keeper: Notifier | None) -> EdgeSettings:
        """A system service is for every user of the host: its socket lies where all look for it, and all may connect."""
        limits = self.loaded.config.limits
        serves_all = self.folder == SYSTEM_FOLDER and SYSTEM_SOCKET.parent.is_dir()
        return EdgeSettings(
            data_dir=str(self.folder),
            socket_folder=str(SYSTEM_SOCKET.parent) if serves_all else None,
            socket_mode=0o666 if serves_all else 0o600,
            spool_folders=spool_folders(environ),
            addresses=() if self.place.bus == LOCAL_BUS else (self.place.bus,),
            keeper=keeper,
            kept=kept(environ, os.getpid()),
            shared=self.ground.shared,
            limits=StreamLimits(limits.points_per_s, limits.user_points_per_s),
            uid_of=self._uid_of,
        )

    def _uid_of(self, attempt: str) -> int | None:
        known = self.judge.attempts.get(attempt)
        return known.standing.record.said.uid if known is not None else None

    def welcome(self, peer: Peer, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a job is told when it comes; Forbidden for one that wants its metrics on Kafka from a daemon that has none."""
        if said.get("bus", LOCAL_BUS) != LOCAL_BUS and self.place.bus == LOCAL_BUS:
            hint = f"start the daemon with --bus {said['bus']}, or leave SMART_TUNER_BUS out"
            raise Forbidden(f"the job asks for the bus {said['bus']}, this daemon's is {LOCAL_BUS}", hint)
        wrong = wrong_policies(said.get("policies"))
        warnings = [*([wrong] if wrong else []), *self.desk.told(str(said.get("run")))]
        told = {"mode": self.loaded.config.policies.default, "data_dir": str(self.folder)}
        return told | ({"warnings": warnings} if warnings else {})

    def _tell_damage(self) -> None:
        for text in self.ground.damage():
            self.notice("damaged", text, "alert")

    def notice(self, what: str, text: str, level: Any = "warning") -> None:
        """A line for people, through the log like every other."""
        self._publisher.publish([Message(NOTICES, what, encode(Notice(what, text, self.clock.now(), level)))])

    def reload(self, loaded: Loaded) -> str:
        """SIGHUP: the judge takes the new rules, gates and primary series; the bus and the store keep their limits. Says
        what is in force."""
        self.loaded = loaded
        config = loaded.config
        rules = RuleBook(config, self._counters)
        self.judge.adopt(rules, gates(config), config.monitoring.metrics.primary, config.decisions.not_after_s)
        return f"{loaded.path or 'the shipped defaults'} in force"

    def close(self) -> None:
        """After the lanes have drained."""
        self._publisher.close()
        self._asked.close()
        self.ground.close()

    # -- queries ---------------------------------------------------------------------------------------------------

    def answer(self, query: dict[str, Any], peer: Peer) -> dict[str, Any]:
        """What the socket's clients ask: status, runs, explain, request, switch, switches, dead_letters."""
        match query.get("query"):
            case "status":
                return self.status()
            case "runs":
                return {"runs": self.live_runs()}
            case "explain":
                return {"explanation": self.explain(str(query.get("run", "")))}
            case "request":
                return self.request(query, peer)
            case "switch":
                return self.desk.switch(query, peer, self._subject) or self._unknown(str(query.get("run", "")))
            case "switches":
                return self.desk.in_force(query)
            case "dead_letters":
                return self.letters.answer(query, peer)
        raise UsageError(
            f"unknown query {query.get('query')!r}", "it answers status, runs, explain, request, switch, switches, dead_letters"
        )

    def status(self) -> dict[str, Any]:
        """See interface.md: lanes, counters, bus, store, and what is wrong."""
        watched = {one.name: one for one in self._supervisor.lanes()} if self._supervisor else {}
        lags = {one.name: sum(self.bus.lag(one.name).values()) for one in self.lanes}
        lanes = [self._lane(one, watched.get(one.name), lags.get(one.name, 0)) for one in self.runners]
        counters = {
            **self.bus.counters, **self.edge.edge.counters, **self.store.counters, **self.judge.counters,
            **self._counters,
            "alerts": self.notices.alerts, "fell_off": sum(one.fell_off for one in self.lanes),
        }  # fmt: skip
        counters["dead_letters"] = (
            counters.get("dead_letters", 0) + sum(one.set_aside for one in self.lanes) + self.notices.dead_letters
        )
        counters["damaged"] = counters.get("damaged", 0) + self.ground.damages
        problems = [f"lane {one['name']}: {one['last_error']}" for one in lanes if one["state"] != "running"]
        problems += [f"edge: {self.edge.edge.trouble}"] if self.edge.edge.trouble else []
        problems += [f"lane {one['name']} is {one['lag']} records behind" for one in lanes if one["lag"] > LAG_LIMIT]
        return {
            "daemon": {"version": __version__, "pid": os.getpid(), "uptime_s": self.clock.monotonic() - self.began},
            "data_dir": str(self.folder),
            "config": str(self.loaded.path) if self.loaded.path else None,
            "mode": self.loaded.config.policies.default,
            "jobs": len(self.edge.edge.spools()),
            "lanes": lanes,
            "counters": dict(sorted(counters.items())),
            "bus": {"url": self.place.bus, **self.ground.told(), "lag": lags},
            "store": {"folder": self.loaded.config.store.url or str(self.folder), "counters": dict(self.store.counters)},
            "switches": self.desk.shown(),
            "problems": problems,
        }

    def _lane(self, lane: EdgeLane | Lane, watched: LaneState | None, lag: int) -> dict[str, Any]:
        row: dict[str, Any] = {"name": lane.name, "state": watched.state if watched else "running", "lag": 0, "rate": 0.0}
        row |= {"records": 0, "errors": watched.restarts if watched else 0, "last_error": watched.last_error if watched else ""}
        if isinstance(lane, Lane):
            seconds = max(1.0, self.clock.monotonic() - self.began)
            row |= {"lag": lag, "rate": lane.records / seconds, "records": lane.records}
            if lane.errors:
                row |= {"errors": lane.errors, "last_error": lane.last_error}
            if lane.failing:
                row["state"] = "failing"
        return row

    def live_runs(self) -> list[dict[str, Any]]:
        """Every attempt that the judge knows, with its last points and what it is judged by."""
        here = {one["attempt"]: one for one in self.edge.edge.spools()}
        rows = [
            {
                "run": one["run"], "attempt": name, "group": one["group"], "state": "running", "series": {}, "last_metric": None,
                "control": "elsewhere", "concurrent": False, "judged_by": None, "not_judged": "another daemon judges it",
            }
            for name, one in here.items() if self.ground.shared and name not in self.judge.attempts
        ]  # fmt: skip
        attempts = list(self.judge.attempts.items())
        live = Counter(one.standing.record.run for _, one in attempts if not one.standing.record.over)
        for name, one in attempts:
            record = one.standing.record
            series = {
                key: {"step": last.step, "value": spell(last.value), "time": last.time, "points": last.count}
                for key, last in list(one.series.items())
            }
            by, not_because = judged(one)
            rows.append({
                "run": record.run, "attempt": name, "group": record.group, "state": record.state, "series": series,
                "last_metric": max((last["time"] for last in series.values()), default=None),
                "control": self._control(one, name in here),
                "concurrent": not record.over and live[record.run] > 1,
                "judged_by": by, "not_judged": not_because,
            })  # fmt: skip
        return rows

    def _control(self, attempt: Attempt, here: bool) -> str:
        record = attempt.standing.record
        if record.over:
            return "none"
        return self.desk.control(attempt.partition, record.run) or (record.said.mode if here else "waiting")

    def explain(self, run: str) -> dict[str, Any] | None:
        """Who says what about a run that the judge knows, by the configuration in force; None for another."""
        attempt = self.judge.current(run)
        if attempt is None:
            return None
        by, not_because = judged(attempt)
        told = Explanation(self.loaded, attempt.standing.record, tuple(attempt.series)).plain()
        return told | {"judged_by": by, "not_judged": not_because}

    def request(self, query: dict[str, Any], peer: Peer) -> dict[str, Any]:
        """A person's decision, put onto the log as a Request if this person may decide about that run."""
        run, action, params = str(query.get("run", "")), str(query.get("action", "")), query.get("params") or {}
        if not isinstance(params, dict):
            raise UsageError(f"params is {params!r}, not an object", 'send {"params": {"factor": 0.5}} for scale-lr')
        subject = self._subject(run)
        if subject is None:
            return self._unknown(run)
        if action not in ACTIONS:
            return {"refused": f"no action is called {action!r}", "hint": did_you_mean(action, list(ACTIONS))}
        if (said := refusal(peer, subject)) is not None:
            return said
        now = self.clock.now()
        request = Request(
            ulid(now), subject.run, action, user_name(peer.uid), now, params, str(query.get("reason") or ""),
            subject.attempt, subject.group,
        )  # fmt: skip
        self._asked.publish([Message(CONTROL, topic_key(subject.run, subject.group), encode(request))])
        identity = decision_id(subject.run, subject.attempt, "person", 1, action, request.id)
        return {"id": identity, "request": request.id, "run": subject.run, "attempt": subject.attempt, "action": action}

    def _subject(self, run: str) -> Subject | None:
        """The attempt that a request about `run` is for: one judged here, else one whose job is on this host."""
        judged = self.judge.current(run)
        if judged is not None:
            record = judged.standing.record
            return Subject(record.run, record.attempt, record.group, record.said.uid, record.said.user)
        here = [one for one in self.edge.edge.spools() if one["run"] == run]
        if not here:
            return None
        one = max(here, key=lambda row: str(row["attempt"]))
        return Subject(one["run"], one["attempt"], one["group"], one["uid"], user_name(one["uid"]))

    def _unknown(self, run: str) -> dict[str, Any]:
        known = {one.standing.record.run for one in self.judge.attempts.values()} | {one["run"] for one in self.edge.edge.spools()}
        hint = did_you_mean(run, sorted(known)) if known else "no run is attached"
        if self.ground.shared:
            hint += "; ask on the job's own host: this daemon knows the jobs of its host and the runs that it judges"
        return {"refused": f"no run is called {run!r} here", "hint": hint}


def _store_place(place: Place, config: Config, clock: Clock) -> StorePlace:
    """Only daemons of one Kafka share a store: its files say where to go on in offsets of that log."""
    url, folder, kafka = config.store.url, str(place.folder), config.bus.kafka
    if place.is_local:
        return open_place(url, folder, clock, shared=False)
    return open_place(url, folder, clock, shared=True, log=f"kafka {kafka.prefix}.{kafka.namespace}")


def _keep(config: Config) -> StoreRetention:
    days = config.store.retention_days
    return StoreRetention(age_s=None if days is None else days * DAY_S)
