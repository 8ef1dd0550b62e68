"""A broker behind a proxy, shared by the fault tests of a worker."""

import kafka_broker as brokers
import pytest
from kafka_proxy import Proxy
from kafka_site import Site


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """(broker, proxy), one for all fault tests of a worker."""
    proxy = Proxy()
    try:
        broker = brokers.Broker(
            tmp_path_factory.mktemp("faulty"),
            listeners={"PROXIED": "PLAINTEXT"},
            advertised={"PROXIED": proxy.port},
            **brokers.KILLED_OFTEN,
        )
        broker.start()
    except brokers.NoBroker as why:
        proxy.close()
        brokers.cannot(why)
    proxy.target = broker.address("PROXIED")
    yield broker, proxy
    broker.kill()
    proxy.close()


@pytest.fixture
def site(faulty, kafka_prefix):
    broker, proxy = faulty
    made = Site(broker, proxy, kafka_prefix)
    yield made
    proxy.heal()
    if broker.process is None:
        broker.start()
    for log in made.logs:
        log.close()
