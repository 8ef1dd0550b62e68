"""Whose decisions are obeyed."""

from smarttuner.bus.claims import Claims
from smarttuner.bus.memory_state import MemoryStateLog
from smarttuner.core.events import Claim, Decision


def decision(epoch):
    return Decision("d", "r", "a", "prune", "p", "t", "why", 1.0, 2.0, epoch=epoch)


def test_nothing_is_obeyed_before_a_claim_and_then_only_its_epoch():
    claims = Claims()
    assert not claims.allow(decision(0), 3, 10.0)
    claims.hear(Claim(3, 4, "a", 10.0), 3)
    assert claims.allow(decision(4), 3, 11.0)
    assert not claims.allow(decision(3), 3, 11.0)
    assert not claims.allow(decision(5), 3, 11.0)  # no claim of it was heard: it cannot be
    assert not claims.allow(decision(4), 2, 11.0)


def test_a_daemon_that_wakes_and_says_its_old_claim_again_gets_nothing_back():
    claims = Claims()
    claims.hear(Claim(0, 4, "a", 10.0), 0)
    claims.hear(Claim(0, 5, "b", 20.0), 0)
    claims.hear(Claim(0, 4, "a", 30.0), 0)
    assert not claims.allow(decision(4), 0, 31.0)
    assert claims.allow(decision(5), 0, 31.0)
    assert claims.epoch(0) == 5


def test_a_claim_counts_only_in_its_own_partition():
    claims = Claims()
    claims.hear(Claim(1, 9, "a", 10.0), 0)
    assert claims.epoch(0) is None
    assert claims.epoch(1) is None


def test_what_was_appended_more_than_a_minute_before_the_start_only_teaches():
    claims = Claims()
    assert claims.begin(0, 1000.0) == 910.0
    claims.hear(Claim(0, 1, "a", 920.0), 0)
    assert not claims.allow(decision(1), 0, 939.0)
    assert claims.allow(decision(1), 0, 940.0)
    claims.begin(0, 5000.0)  # begins again: what it heard long ago counts no more
    assert not claims.allow(decision(1), 0, 5000.0)


def test_compaction_keeps_the_last_entry_of_each_key_in_order():
    state = MemoryStateLog()
    state.write({0: [("a", b"1"), ("b", b"1"), ("a", b"2")]})
    state.write({1: [("a", b"other")]})
    state.write({0: [("b", None), ("c", b"1")]})
    state.compact(0, before=3)
    assert state.read(0) == [("b", b"1"), ("a", b"2"), ("b", None), ("c", b"1")]
    state.compact(0, before=3)
    assert state.read(0) == [("a", b"2"), ("b", None), ("c", b"1")]
    assert state.read(1) == [("a", b"other")]
    assert state.read(2) == []
