"""Bugs to be found: each replaces a part of the loop by one that a careless change could bring."""

from __future__ import annotations

from collections.abc import Callable

from job import Job
from smarttuner.bus.member import Member
from smarttuner.consumers.metric_partition import Facts, MetricPartition
from smarttuner.consumers.row_files import RowFiles
from smarttuner.core.standing import Standing
from smarttuner.core.window import Window
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.stores import FilesStore, JudgeStore, PlainStore


def cursor_before_answers() -> None:
    """The cursor is committed in one transaction, the answers in the next."""
    whole = JudgeStore._save

    def save(self, answers):
        moved = whole(self, ())
        if answers:
            with self._state.transaction():
                self._state.add(answers)
        return moved

    JudgeStore._save = save


def answers_before_cursor_and_windows() -> None:
    """The answers are committed before the windows that they came from: after a kill they are concluded again, and a time
    or a revision that counts what was sent differs."""

    def save(self, answers):
        attempts, body = self._judge.changes()
        with self._state.transaction():
            self._state.add(answers)
            self._state.advance(self._wanted)
        with self._state.transaction():
            self._state.save(attempts, body)
        self._judge.saved()
        self._durable.update(self._wanted)
        return self._wanted

    JudgeStore._save = save


def sent_before_published() -> None:
    """The outbox forgets before the log has it."""

    def send(self, bus):
        waiting = self.store.unsent()
        if waiting:
            self.store.mark_sent([number for number, _ in waiting])
            bus.publish([message for _, message in waiting])

    Lane._send = send


def outbox_not_sent_on_start() -> None:
    """A restarted lane forgets what the last one had not published."""
    whole = Lane._start

    def start(self):
        self._send, mine = lambda bus: None, self._send
        bus = whole(self)
        self._send = mine
        return bus

    Lane._start = start


def windows_forget_positions() -> None:
    """After a restart a point that is repeated is judged again."""
    whole = Window.load

    def load(self, state):
        whole(self, {**state, "last": {}, "last_step": None})

    Window.load = load


def latches_not_saved() -> None:
    """After a restart a policy that had spoken speaks again."""
    whole = Standing.dump
    Standing.dump = lambda self: {**whole(self), "latches": {}}


def pending_not_loaded() -> None:
    """After a restart nobody waits for the answers that are out."""
    whole = Standing.load.__func__

    def load(cls, plain):
        return whole(cls, {**plain, "pending": {}})

    Standing.load = classmethod(load)


def group_commit_is_the_cursor() -> None:
    """The judge goes on where the bus says that its group was, which is ahead of what it kept."""
    whole = Member.poll

    def poll(self, topics, group, start=None, limit=1000, timeout_s=0.0):
        batch = whole(self, topics, group, None, limit, timeout_s)
        self.commit(group, {(one.topic, one.partition): one.offset + 1 for one in batch.records})
        return batch

    Member.poll = poll


def job_writes_down_after_the_answer() -> None:
    """The job acknowledges first and notes afterwards what it did."""
    write, answer = Job._write, Job._answer

    def note(self, id_, line):
        self.lines[id_] = line

    def late(self, lines):
        answer(self, lines)
        for line in lines:
            write(self, line["id"], line)

    Job._write, Job._answer = note, late


def store_commits_what_it_only_took() -> None:
    """The store goes on behind what it took in, not behind what is in its files."""

    def commit(self, answers, positions, now, at_once):
        whole(self, answers, positions, now, at_once)
        return positions

    whole, FilesStore.commit = FilesStore.commit, commit
    FilesStore.position = PlainStore.position


def store_forgets_what_it_has() -> None:
    """The files do not say which points they hold: one that is repeated after a restart is there twice."""
    MetricPartition._facts = lambda self, sealed=False: Facts(self._now.start, self._now.at, sealed, None, self._appended)


def table_cursor_before_its_rows() -> None:
    """runs/ and decisions/ say how far they are before the older files with changed rows are written."""

    def publish(self):
        if self._changed or self.cursor != self.visible:
            self._write(self._newest, dict(self.cursor))
            for start in sorted(self._changed - {self._newest}):
                self._write(start, self._load(start).facts.cursor)
            self._changed.clear()
            self.visible = dict(self.cursor)

    RowFiles.publish = publish


BUGS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        cursor_before_answers,
        answers_before_cursor_and_windows,
        sent_before_published,
        outbox_not_sent_on_start,
        windows_forget_positions,
        latches_not_saved,
        pending_not_loaded,
        group_commit_is_the_cursor,
        job_writes_down_after_the_answer,
        store_commits_what_it_only_took,
        store_forgets_what_it_has,
        table_cursor_before_its_rows,
    )
}
