import pytest
from smarttuner.bus.kafka_address import bootstrap_of, servers_of
from smarttuner.core.errors import ConfigError


def test_brokers_are_named_with_and_without_ports_and_by_ipv6():
    assert servers_of("kafka://a,b:9093,[fe80::1]:9094,[::1]") == (("a", 9092), ("b", 9093), ("fe80::1", 9094), ("::1", 9092))
    assert bootstrap_of("kafka://a,[::1]:9094,a:9092/") == "a:9092,[::1]:9094"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("local:", "no Kafka bus"),
        ("kafka://", "name is missing"),
        ("kafka://a,,b", "name is missing"),
        ("kafka://a:0", "0 is no port"),
        ("kafka://a:99999", "99999 is no port"),
        ("kafka://a:port", "host:port"),
        ("kafka://::1", "stands in brackets"),
        ("kafka://a:9092/topic", "nothing may follow"),
        ("kafka://a:9092?acks=1", "nothing may follow"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(url, said):
    with pytest.raises(ConfigError) as caught:
        servers_of(url)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as caught:
        servers_of("kafka://me:hunter2@broker:9092")
    assert "hunter2" not in str(caught.value)
    assert "properties_file" in caught.value.hint
