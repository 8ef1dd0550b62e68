"""What a fleet's network and brokers do to it, seen through the Bus port: nothing lost, order within a run kept."""

import time

import pytest
from kafka_site import Reader, assert_whole_and_in_order, streaming
from smarttuner.core.errors import Unavailable

AFTER = 60
"""So many more are acknowledged before a fault is over and before a test ends."""


def through(site, fault, heal, lasting_s, expect_failure, patient=False):
    log = site.log(patient=patient)
    reader = Reader(log)
    with streaming(log) as stream:
        stream.reach(AFTER)
        fault()
        deadline = time.monotonic() + lasting_s
        while time.monotonic() < deadline:
            reader.step()
        heal()
        stream.reach(AFTER)
    reader.read(stream.sent)
    assert_whole_and_in_order(reader.records, stream.sent)
    if expect_failure:
        assert stream.failed
        assert reader.errors
        for error in reader.errors:
            assert error.hint
            assert "\n" not in error.message
    reader.bus.close()


def test_a_broker_that_is_killed_and_restarted(site):
    through(site, site.broker.kill, site.broker.start, 4.0, expect_failure=True)


def test_a_connection_that_is_black_holed(site):
    through(site, site.proxy.black_hole, site.proxy.heal, 5.0, expect_failure=True)


def test_a_connection_that_is_cut(site):
    through(site, site.proxy.cut, site.proxy.heal, 3.0, expect_failure=False)


def test_a_connection_that_is_slow(site):
    through(site, lambda: site.proxy.delay(0.2), lambda: None, 3.0, expect_failure=False, patient=True)


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
def test_a_new_log_is_refused_in_one_line_within_seconds(site, fault):
    getattr(site.proxy, fault)()
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        site.log(refused=True)
    assert time.monotonic() - began < 10.0  # bootstrap_timeout_s and CAUSE_S are 2.5 s together
    assert raised.value.message.count("\n") == 0
    assert raised.value.hint
