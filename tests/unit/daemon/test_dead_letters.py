"""Dead letters from the judge's lane to the command line: kept, listed, shown, published again, and no loop."""

import base64
import json
import os

import pytest
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.places import Place
from smarttuner.core.clock import ManualClock
from smarttuner.core.events import MAX_BODY_BYTES, MetricChunk, Notice, RunEvent, Series, Started, encode
from smarttuner.core.letters import MAX_TRIES, letter_to
from smarttuner.core.ports import DEAD_LETTERS, METRICS, NOTICES, RUNS, Message, Record
from smarttuner.daemon.cli.main import run
from smarttuner.daemon.config import load
from smarttuner.daemon.dead_letters import MAX_RETRIED, DeadLetters
from smarttuner.daemon.edge_line import Peer
from smarttuner.daemon.wiring import Host

OWN, STRANGER = Peer(1, os.getuid(), 1), Peer(1, 4242, 1)


def chunk(first=0, run_name="r"):
    return encode(MetricChunk(run_name, "A", "java", first, [Series("loss", [first], [0.5], [1.7e9])]))


def newer(body):
    return body.replace(b'"v":1', b'"v":7')


class House:
    """A log with dead letters on it, and who answers for them."""

    def __init__(self, partitions=1):
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock, partitions)
        self.bus = self.log.connect()
        self.letters = DeadLetters(self.log.connect, lambda: partitions, self.clock)

    def keep(self, body, key="r", offset=0, by="judge", topic=METRICS, headers=()):
        self.clock.turn(1.0)
        self.bus.publish([letter_to(Record(topic, 0, offset, key, body, self.clock.now(), headers), "why", by)])

    def ask(self, act, peer=OWN, **fields):
        return self.letters.answer({"act": act, **fields}, peer)

    def listed(self, limit=100):
        return self.ask("list", limit=limit)["letters"]

    def on(self, topic, key="r"):
        return self.bus.follow(topic, key, 0, 10_000)[0]


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_newest_letters_of_all_partitions_are_listed_the_newest_last(partitions):
    house = House(partitions)
    for offset in range(40):
        house.keep(b"?", key=f"run-{offset % 7}", offset=offset)
    assert [row["from"] for row in house.listed()] == [f"metrics/0@{offset}" for offset in range(40)]
    assert [row["from"] for row in house.listed(limit=3)] == ["metrics/0@37", "metrics/0@38", "metrics/0@39"]


def test_letters_are_found_behind_a_wide_gap_of_offsets():
    house = House()
    house.keep(b"?", offset=1)
    house.log.skip_offsets((DEAD_LETTERS, 0), 1 << 20)
    house.keep(b"?", offset=2)
    assert [row["from"] for row in house.listed(limit=2)] == ["metrics/0@1", "metrics/0@2"]


def test_a_letter_that_a_kill_made_its_lane_write_twice_is_listed_once():
    house = House()
    house.keep(b"?", offset=1)
    house.keep(b"?", offset=1)
    house.keep(b"?", offset=1, by="metrics_store")
    assert [row["by"] for row in house.listed()] == ["judge", "metrics_store"]


def test_a_letter_is_shown_with_exactly_its_bytes():
    house = House()
    house.keep(b"\x00\xff{", headers=(("key_id", b"k1"),))
    (row,) = house.listed()
    shown = house.ask("show", id=row["id"])
    assert (base64.b64decode(shown["body"]), shown["headers"], shown["bytes"]) == (b"\x00\xff{", {"key_id": "k1"}, 3)


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_this_daemon_can_read_goes_back_to_its_topic_once(partitions):
    house = House(partitions)
    house.keep(chunk(), headers=(("key_id", b"k"),))
    (row,) = house.listed()
    assert house.ask("retry", id=row["id"])["status"] == "retried"
    assert house.ask("retry", id=row["id"])["status"] == "already"
    (record,) = house.on(METRICS)
    assert (record.body, dict(record.headers)) == (chunk(), {"key_id": b"k", "tries": b"1", "retry_of": row["id"].encode()})
    assert [row["status"] for row in house.listed()] == ["retried"]
    assert house.ask("retry", all=True)["results"] == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (newer(chunk()), "version 7 is not known here"),
        (b"not json", "cannot read it either"),
        (b" " * (MAX_BODY_BYTES + 1), "over the limit"),
    ],
)
def test_what_is_still_bad_is_refused_and_published_nowhere(body, why):
    house = House()
    house.keep(body)
    answer = house.ask("retry", id=house.listed()[0]["id"])
    assert answer["status"] == "refused"
    assert why in answer["reason"]
    assert house.on(METRICS) == []
    assert [row["status"] for row in house.listed()] == ["waiting"]


def test_bytes_that_come_back_each_time_are_published_a_few_times_and_no_more():
    house = House()
    house.keep(chunk())
    for _ in range(MAX_TRIES):
        assert [one["status"] for one in house.ask("retry", all=True)["results"]] == ["retried"]
        record = house.on(METRICS)[-1]
        house.bus.publish([letter_to(record, "its consumer falls", "metrics_store")])
    (last,) = house.ask("retry", all=True)["results"]
    assert last["status"] == "refused"
    assert f"published again {MAX_TRIES} times" in last["reason"]
    assert len(house.on(METRICS)) == MAX_TRIES


@pytest.mark.parametrize("partitions", [1, 4])
def test_all_that_wait_go_back_in_parts_each_once(partitions):
    house = House(partitions)
    count = 2 * MAX_RETRIED + 30
    for first in range(count):
        house.keep(chunk(first), key=f"r{first % 5}", offset=first)
    house.ask("retry", id=house.listed(count)[MAX_RETRIED + 5]["id"])
    results, after, asked = [], {}, 0
    while after or not asked:
        answer = house.ask("retry", all=True, after=after)
        results, after, asked = results + answer["results"], answer["after"], asked + 1
    assert len(results) == count - 1
    back = {record.body for key in range(5) for record in house.on(METRICS, f"r{key}")}
    assert back == {chunk(first) for first in range(count)}
    assert {row["status"] for row in house.listed(count)} == {"retried"}
    assert asked > 1


@pytest.mark.parametrize("act", ["show", "retry"])
def test_the_bytes_are_for_the_daemons_own_user_and_root(act):
    house = House()
    house.keep(chunk())
    name = house.listed()[0]["id"]
    assert "only the daemon's own user" in house.ask(act, STRANGER, id=name)["refused"]
    assert "refused" not in house.ask(act, Peer(1, 0, 0), id=name)
    assert len(house.ask("list", STRANGER)["letters"]) == 1


# through a daemon's own parts, as a person types it


@pytest.fixture
def host(tmp_path, monkeypatch):
    for name in ("SMART_TUNER_DATA_DIR", "SMART_TUNER_BUS", "SMART_TUNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    made = Host(Place(tmp_path / "data", "local:", "argument"), load(file, {}), {"HOME": str(tmp_path)}, ManualClock())
    made.edge.open()
    yield made
    made.edge.edge.stop()
    made.close()


def turn(host):
    """Every lane takes all that is there."""
    while sum(lane.step(host.clock.now()) for lane in host.lanes):
        pass


def typed(host, capsys, *arguments):
    code = run(["dead-letters", *arguments, "--data-dir", str(host.folder)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_partition_with_bad_records_goes_on_and_they_are_counted_told_and_kept(host, capsys):
    bodies = [chunk(0), b"not json", newer(chunk(1)), encode(Notice("x", "misplaced", 1.0)), chunk(2)]
    publisher = host.bus.connect()
    publisher.publish([Message(METRICS, "r", body) for body in bodies] + [Message(NOTICES, "r", b"no notice")])
    turn(host)
    assert host.judge.attempts["A"].series["loss"].count == 2
    assert host.status()["counters"]["dead_letters"] == 4
    notices = publisher.follow(NOTICES, "r", 0)[0]
    assert sum(b'"what":"dead_letter"' in record.body for record in notices) == 1
    code, out, _ = typed(host, capsys, "list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {(row["by"], row["from"].split("/")[0]) for row in rows} == {("judge", "metrics"), ("notice_log", "notices")}
    assert [row["reason"] for row in rows if "version 7" in row["reason"]] == ["version 7 is not known here (this is 1)"]
    assert all(row["appended"].endswith("Z") and row["bytes"] == row["kept"] for row in rows)


def test_letters_are_shown_and_retried_from_the_command_line(host, capfdbinary):
    class Text:
        def readouterr(self):
            said = capfdbinary.readouterr()
            return type("Said", (), {"out": said.out.decode(), "err": said.err.decode()})

    capsys = Text()
    assert typed(host, capsys, "list")[2] == "smart-tuner: no dead letters\n"
    publisher = host.bus.connect()
    publisher.publish([Message(METRICS, "r", b"\x1b[31m\xff"), Message(METRICS, "r", b'{"v":7}')])
    started = RunEvent("r", "B", "started", 1.7e9, 0, started=Started())
    publisher.publish([letter_to(Record(RUNS, 0, 99, "r", encode(started), 1.0), "an older daemon could not", "judge")])
    turn(host)
    rows = {row["bytes"]: row for row in map(json.loads, typed(host, capsys, "list", "--json")[1].splitlines())}
    binary, newer_one, good = rows[6]["id"], rows[7]["id"], rows[len(encode(started))]["id"]
    code, out, _ = typed(host, capsys, "show", binary)
    assert (code, "\x1b" in out) == (0, False)
    assert "00000000  1b 5b 33 31 6d ff" in out
    assert '"v": 7' in typed(host, capsys, "show", newer_one)[1]
    run(["dead-letters", "show", "--raw", binary, "--data-dir", str(host.folder)])
    assert capfdbinary.readouterr().out == b"\x1b[31m\xff"
    code, out, err = typed(host, capsys, "retry", "--all")
    assert code == 12
    assert f"{good}: published again to runs" in out
    assert f"{newer_one}: not published again: this daemon cannot read it either: version 7" in out
    assert "2 of 3 letters were not published again" in err
    turn(host)
    assert "B" in host.judge.attempts
    assert typed(host, capsys, "retry", good)[0] == 0
    assert typed(host, capsys, "retry")[0] == 2
    assert typed(host, capsys, "show", "dead_letters/0@999")[0] == 1
    assert typed(host, capsys, "show", "metrics/0@0")[0] == 2
