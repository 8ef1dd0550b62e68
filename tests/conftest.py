"""What several rooms' tests share: Apache Kafka, and the helpers beside this file (`from kafka_broker import Broker`)."""

import os
import pathlib
import sys
import uuid
import warnings

import hypothesis
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
if os.environ.get("SMART_TUNER_TEST_PLAIN"):  # as where nothing could be compiled
    sys.modules["smarttuner.bus._ring"] = sys.modules["smarttuner.trainer._calm"] = None

import kafka_broker as brokers
from kafka_proxy import Proxy

# An example that a busy machine held up is no failure (hypothesis' own limit is 200 ms of the clock); what repeats one is printed.
EVERYWHERE = {"deadline": None, "print_blob": True, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("everywhere", **EVERYWHERE)
hypothesis.settings.load_profile("everywhere")

CLIENT_SOCKETS = r"unclosed <socket.socket fd=\d+, family=2, type=1, proto=6, laddr"
"""kafka-python leaves sockets of connections that failed or were cut to the collector."""


def pytest_configure(config):
    """kafka-python reads its schemas through functions that Python 3.11 and 3.12 call deprecated, and 3.13 does not."""
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    config.addinivalue_line("filterwarnings", f"ignore:{CLIENT_SOCKETS}:ResourceWarning")


def pytest_collection_modifyitems(items):
    """What is given more time than the others is begun first: begun last, a minute of it would find one worker idle."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure():
    """The last of those sockets, which no test's filter covers."""
    warnings.filterwarnings("ignore", CLIENT_SOCKETS, ResourceWarning)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory):
    """One broker for the whole session, all workers of pytest-xdist included; nobody kills it. SMART_TUNER_TEST_KAFKA=host:port
    uses one that is there."""
    address = os.environ.get("SMART_TUNER_TEST_KAFKA")
    if address:
        yield brokers.Remote(address)
        return
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    try:
        address, users = brokers.shared(base / "kafka")
    except brokers.NoBroker as why:
        brokers.cannot(why)
    with users:
        yield brokers.Remote(address)


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory):
    """Where the demonstrations of all workers keep their speech: it is spoken once."""
    base = tmp_path_factory.getbasetemp()
    return str((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "demo-cache")


@pytest.fixture
def kafka_prefix():
    """A fresh prefix for topics and groups, so that tests on one broker do not meet."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def make_broker(tmp_path):
    """Makes brokers of the test's own, started, on ports that stay: make_broker(listeners=…, **{"some.setting": "…"})."""
    made = []

    def make(**options):
        try:
            broker = brokers.Broker(tmp_path / f"kafka-{len(made)}", **{**brokers.KILLED_OFTEN, **options})
            made.append(broker)
            return broker.start()
        except brokers.NoBroker as why:
            brokers.cannot(why)

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def proxied_broker(make_broker):
    """(broker, proxy): what connects to proxy.bootstrap reaches the broker through the proxy only."""
    proxy = Proxy()
    broker = make_broker(listeners={"PROXIED": "PLAINTEXT"}, advertised={"PROXIED": proxy.port})
    proxy.target = broker.address("PROXIED")
    yield broker, proxy
    proxy.close()
