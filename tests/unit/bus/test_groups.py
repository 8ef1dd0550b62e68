import pytest
from smarttuner.bus.bells import Bells
from smarttuner.bus.groups import Groups
from smarttuner.core.clock import ManualClock

PARTITIONS = {("metrics", n) for n in range(4)}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def groups(clock):
    return Groups(clock, Bells(), 4)


def visit(groups, member, topics=("metrics",)):
    owned, revoked = groups.visit("g", member, topics)
    groups.rest("g", member)
    return owned, revoked


def test_a_partition_changes_hands_when_its_owner_has_put_away_what_it_read(groups):
    assert visit(groups, 1) == (PARTITIONS, set())
    assert visit(groups, 2) == (set(), set())  # nothing is free yet
    owned, revoked = visit(groups, 1)
    assert (len(owned), len(revoked)) == (2, 2)
    assert visit(groups, 2) == (set(), set())  # told, but not done
    assert visit(groups, 1) == (owned, set())
    assert visit(groups, 2) == (revoked, set())


def test_what_a_member_leaves_is_free_at_once(groups):
    visit(groups, 1)
    visit(groups, 2)
    groups.leave("g", 1)
    groups.leave("g", 1)
    assert visit(groups, 2) == (PARTITIONS, set())
    groups.leave("g", 2)
    assert groups.members() == {}


def test_a_drill_takes_everything_away_even_from_a_single_member(groups):
    visit(groups, 1)
    groups.rebalance("g")
    assert visit(groups, 1) == (set(), PARTITIONS)
    assert visit(groups, 1) == (PARTITIONS, set())


def test_a_silent_member_is_put_out_when_others_want_its_partitions(groups, clock):
    visit(groups, 1)
    clock.turn(groups.session_s + 1)
    assert visit(groups, 2) == (PARTITIONS, set())
    owned, revoked = visit(groups, 1)
    assert (owned, revoked) == (set(), PARTITIONS)  # told late, as after a pause
    assert visit(groups, 1)[0] == set()
    assert len(visit(groups, 2)[1]) == 2


def test_a_member_inside_a_long_poll_is_not_silent(groups, clock):
    groups.visit("g", 1, ["metrics"])
    clock.turn(groups.session_s + 1)
    assert visit(groups, 2) == (set(), set())


def test_more_members_than_partitions_wait(groups):
    for _ in range(4):
        owned = [visit(groups, member)[0] for member in range(6)]
    assert sorted(map(len, owned)) == [0, 0, 1, 1, 1, 1]
    assert set().union(*owned) == PARTITIONS


def test_members_may_read_different_topics(groups):
    for _ in range(3):
        both = visit(groups, 1, ("metrics", "control"))[0]
        one = visit(groups, 2, ("metrics",))[0]
    assert {p for p in both if p[0] == "control"} == {("control", n) for n in range(4)}
    assert {p for p in both | one if p[0] == "metrics"} == PARTITIONS
    assert not both & one


def test_put_out_gives_away_at_once_and_tells_later(groups):
    visit(groups, 1)
    visit(groups, 2)
    groups.put_out("g", 1)
    assert visit(groups, 2) == (PARTITIONS, set())
    assert visit(groups, 1) == (set(), PARTITIONS)
