import os
import signal
import threading

import pytest
from smarttuner.bus import filesystem, spool_layout
from smarttuner.bus.control_page import Order, PageWriter
from smarttuner.bus.spool import Spool
from smarttuner.bus.spool_reader import SpoolReader
from smarttuner.core.errors import Unavailable, UsageError


@pytest.fixture
def spool(tmp_path):
    made = Spool.create(str(tmp_path / "spool"), "r", "A1", "/data", ring_bytes=64 << 10)
    yield made
    made.close()


def test_a_log_call_writes_one_record_and_takes_a_position_a_value(spool):
    before = spool.unread
    assert spool.log(1, {"loss": 0.5, "lr": 1e-3}, 10.0)
    assert spool.next_position == 2
    assert spool.unread > before
    assert spool.take_position() == 2
    assert spool.next_position == 3


def test_values_and_their_two_halves_make_the_same_record(spool):
    values, records = {"loss": 0.5, "lr": 1e-3, "negative": -0.0}, []
    spool.log(0, values, 10.0)
    for halves in ((), ((*values,), [*values.values()])):
        at = spool_layout.RING_OFFSET + spool.unread
        assert spool.log(-7, values, 10.5, *halves)
        record = os.pread(spool.fd, spool_layout.RING_OFFSET + spool.unread - at, at)
        length, _, offset, position, *_ = spool_layout.RECORD_HEAD.unpack_from(record)
        assert (length, offset) == (len(record), at - spool_layout.RING_OFFSET)
        records.append((position, record[24:]))
    assert records[0][1] == records[1][1]
    assert [position for position, _ in records] == [3, 6]


def test_what_finds_no_room_is_dropped_and_counted_and_events_still_fit(spool):
    taken = sum(spool.log(i, {"loss": 0.5, "accuracy": 0.1}, 10.0) for i in range(2000))
    assert spool.dropped == 2 * (2000 - taken) > 0
    assert spool_layout.pread_word(spool.fd, spool_layout.WORD_DROPPED) == spool.dropped
    assert spool.next_position == 4000
    assert spool.event(b"x" * 8000)
    assert not spool.log(1, {"loss": 0.5}, 10.0)


def test_values_that_are_no_numbers_are_left_out_and_the_others_kept(spool):
    assert spool.log(1, {"loss": 0.5, "text": "0.5", "none": None, "": 1.0, 7: 1.0}, 10.0)
    assert spool.next_position == 1
    assert spool.not_numbers == 2
    assert not spool.log(1, {"text": "no"}, 10.0)
    assert not spool.log("one", {"loss": 0.5}, 10.0)
    assert not spool.log(1 << 70, {"loss": 0.5}, 10.0)
    assert spool.log(1, {"loss": 10**400, "x": 1}, 10.0)
    assert spool.log(2, {}, 10.0) is False


def test_a_record_over_a_quarter_of_the_ring_is_dropped(spool):
    assert not spool.log(1, {f"s{i}": 1.0 for i in range(3000)}, 10.0)
    assert spool.log(1, {"loss": 1.0}, 10.0)
    assert not spool.event(b"x" * 20000)


def test_series_beyond_the_limit_are_refused_and_counted(tmp_path):
    with_room = Spool.create(str(tmp_path), "r", "A2", "/data")
    for i in range(spool_layout.MAX_SERIES + 5):
        with_room.log(i, {f"s{i}": 1.0}, 0.0)
    assert spool_layout.pread_word(with_room.fd, spool_layout.WORD_REFUSED) >= 5
    assert with_room.dropped == 5
    assert with_room.log(1, {"s0": 1.0, "one too many": 1.0}, 0.0)
    with_room.close()


def test_the_child_of_a_fork_writes_nothing(spool):
    spool.log(1, {"loss": 1.0}, 0.0)
    head = spool_layout.pread_word(spool.fd, spool_layout.WORD_HEAD)
    pid = os.fork()
    if pid == 0:
        spool.log(2, {"loss": 2.0}, 0.0)
        spool.event(b"{}")
        os._exit(int(spool.orders() != []))
    assert os.waitpid(pid, 0)[1] == 0
    assert spool_layout.pread_word(spool.fd, spool_layout.WORD_HEAD) == head


def test_a_signal_handler_that_logs_inside_a_log_call_neither_deadlocks_nor_loses(spool):
    handled = []

    def handler(*_):
        handled.append(spool.log(7, {"handler": 1.0}, 0.0) and spool.event(b"{}"))

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        spool._lock.acquire()  # as if interrupted while it held the lock
        os.kill(os.getpid(), signal.SIGUSR1)
        position = spool.take_position()
        spool._lock.release()
        assert spool.log(8, {"loss": 1.0}, 0.0)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert handled == [True]
    assert spool.next_position > position
    assert not spool._left


def test_close_writes_what_was_left_even_if_the_lock_was_never_given_back(tmp_path):
    made = Spool.create(str(tmp_path), "r", "A3", "/data", ring_bytes=64 << 10)
    made._lock.acquire()
    assert made.log(1, {"loss": 1.0}, 0.0)
    fd = os.dup(made.fd)
    made.close()
    assert spool_layout.pread_word(fd, spool_layout.WORD_HEAD) > 0
    os.close(fd)
    assert not made.log(2, {"loss": 1.0}, 0.0)


def test_a_lock_that_was_never_given_back_is_freed_at_the_second_look_and_what_waited_is_written(spool):
    spool._lock.acquire()  # as an exception of a handler's leaves it that comes before the holder does anything
    assert spool.log(1, {"loss": 1.0}, 0.0)
    spool.unlock()
    assert spool._left
    spool.unlock()
    assert not spool._left
    assert spool.log(2, {"loss": 1.0}, 0.0)
    assert spool._head > 0


def test_a_lock_that_is_at_work_is_left_alone(spool):
    spool._lock.acquire()
    spool._busy = True
    for _ in range(3):
        spool.unlock()
    assert spool._lock.locked()
    spool._busy = False
    spool.unlock()
    spool._lock.release()
    spool.unlock()
    assert spool.log(1, {"loss": 1.0}, 0.0)
    assert not spool._lock.locked()


def test_a_name_whose_writing_was_cut_off_is_written_once_and_the_names_after_it_keep_their_values(spool):
    class CutOff(dict):
        def setdefault(self, *_):
            raise KeyboardInterrupt

    ids, spool._series._ids = spool._series._ids, CutOff()
    with pytest.raises(KeyboardInterrupt):
        spool.log(1, {"loss": 1.0}, 0.0)
    spool._series._ids = ids
    assert spool.log(2, {"accuracy": 2.0, "loss": 3.0}, 0.0)
    reader = SpoolReader(os.dup(spool.fd))
    assert [rows.names for rows in reader.read(0.0)] == [("accuracy", "loss")]
    reader.close()


def test_a_full_disk_is_unavailable_and_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match="No space left"):
        Spool.create(str(tmp_path), "r", "A4", "/data")
    assert os.listdir(tmp_path) == []


def test_on_a_network_file_system_the_spool_goes_to_memory_and_says_so(tmp_path, monkeypatch):
    real = filesystem.kind
    monkeypatch.setattr(filesystem, "kind", lambda path: 0x6969 if str(path).startswith(str(tmp_path)) else real(path))
    made = Spool.create(str(tmp_path), "r", "A5nfs", "/data")
    assert made.path.startswith("/dev/shm/")
    assert not made.survives_reboot
    made.close(unlink=True)
    assert not os.path.exists(made.path)


def test_an_attempt_that_is_no_file_name_is_refused(tmp_path):
    with pytest.raises(UsageError):
        Spool.create(str(tmp_path), "r", "../A", "/data")


def order(name, action="prune", **params):
    return Order(name, action, params, not_after=100.0)


def test_orders_are_seen_once_and_their_slot_is_freed_by_the_answer(spool):
    writer, before = PageWriter(spool.fd), spool.revision()
    assert writer.place(order("d1"), 0.0).slot == 17
    assert writer.place(order("d1"), 0.0).slot == 17
    assert spool.revision() != before
    assert [one.id for one in spool.orders()] == ["d1"]
    spool.answered("d1")
    assert spool.orders() == []
    assert writer.place(order("d2"), 0.0).slot == 17
    writer.place(order("d1"), 0.0)  # a restarted daemon
    assert [one.id for one in spool.orders()] == ["d2"]


def test_the_ninth_unanswered_one_shot_finds_no_slot_until_one_expires(spool):
    writer = PageWriter(spool.fd)
    assert all(writer.place(order(f"d{i}", "checkpoint"), 0.0).slot >= 17 for i in range(8))
    assert writer.place(order("d8", "checkpoint"), 0.0).refusal == "job has unanswered decisions"
    assert writer.place(order("lr", "scale-lr"), 0.0).slot == 0
    assert writer.place(order("d8", "checkpoint"), 101.0).slot == 17


def test_the_latest_learning_rate_and_standing_order_of_a_series_stand(spool):
    writer = PageWriter(spool.fd)
    for name in ("a", "b"):
        writer.place(order("lr-" + name, "set-lr"), 0.0)
        writer.place(order("keep-" + name, "keep-best", series="val_loss"), 0.0)
    writer.place(order("keep-c", "keep-best", series="accuracy"), 0.0)
    assert [one.id for one in spool.orders()] == ["lr-b", "keep-b", "keep-c"]


def test_a_slot_whose_crc_does_not_agree_is_read_again_at_the_next_boundary(spool):
    PageWriter(spool.fd).place(order("d1"), 0.0)
    at = spool_layout.CONTROL_OFFSET + 512 + 17 * 2048 + 40
    good = os.pread(spool.fd, 1, at)
    os.pwrite(spool.fd, b"\xff", at)
    seen = spool.revision()
    assert spool.orders() == []
    assert spool.revision() != seen
    os.pwrite(spool.fd, good, at)
    seen = spool.revision()
    assert [one.id for one in spool.orders()] == ["d1"]
    assert spool.revision() == seen


def test_an_order_too_long_for_its_slot_is_refused(spool):
    assert "2032" in PageWriter(spool.fd).place(order("d1", text="x" * 3000), 0.0).refusal


def test_threads_share_a_spool_without_losing_a_position(tmp_path):
    shared = Spool.create(str(tmp_path), "r", "A6", "/data")
    taken = []

    def write():
        taken.append(sum(shared.log(i, {"loss": 1.0, "x": 2.0}, 0.0) for i in range(5000)))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert shared.next_position == 2 * 15000
    assert sum(taken) * 2 + shared.dropped == 30000
    shared.close()
