import pytest
from smarttuner.bus.kafka_jaas import parse_jaas
from smarttuner.bus.kafka_properties import parse_properties, read_properties, readable_by_others
from smarttuner.core.errors import ConfigError

PASTED = """
# from the platform team
! old style comment
security.protocol=SASL_SSL
sasl.mechanism : SCRAM-SHA-512
ssl.truststore.type PEM
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\
    username="job" \\
    password="a=b;\\\\"c";
ssl.keystore.key=-----BEGIN PRIVATE KEY-----\\nabc\\n-----END PRIVATE KEY-----
empty=
path\\ with\\=signs=x\\u00e4y
"""


def test_a_file_is_read_as_java_reads_it():
    found = parse_properties(PASTED, "f")
    assert found.values["security.protocol"] == "SASL_SSL"
    assert found.values["sasl.mechanism"] == "SCRAM-SHA-512"
    assert found.values["ssl.truststore.type"] == "PEM"
    assert parse_jaas(found.values["sasl.jaas.config"]).options == {"username": "job", "password": 'a=b;"c'}
    assert found.values["ssl.keystore.key"].splitlines()[1] == "abc"
    assert found.values["empty"] == ""
    assert found.values["path with=signs"] == "xäy"
    assert found.places["sasl.jaas.config"] == "f:7"
    assert found.places["empty"] == "f:11"


def test_a_key_that_stands_twice_and_an_unfilled_reference_are_told_with_their_line():
    with pytest.raises(ConfigError, match="f:2: a stands here twice"):
        parse_properties("a=1\na=2", "f")
    with pytest.raises(ConfigError, match=r"f:1: sasl\.password: ") as caught:
        parse_properties("sasl.password=${env:SECRET}", "f")
    assert "bus.kafka.client" in caught.value.hint


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_properties(str(tmp_path / "absent"))
    (tmp_path / "latin").write_bytes(b"a=1\nb=\xe4")
    with pytest.raises(ConfigError, match="latin:2: is not UTF-8"):
        read_properties(str(tmp_path / "latin"))
    (tmp_path / "big").write_bytes(b"#" * (1 << 20))
    with pytest.raises(ConfigError, match="over 256 KiB"):
        read_properties(str(tmp_path / "big"))


def test_who_else_may_read_it_is_seen(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("a=1")
    file.chmod(0o644)
    assert readable_by_others(str(file))
    file.chmod(0o640)
    assert not readable_by_others(str(file))


@pytest.mark.parametrize(
    "text",
    ["", "required username=x;", 'a.PlainLoginModule required username="x"', 'a.PlainLoginModule required password="hunter2;'],
)
def test_a_login_that_is_not_understood_says_so_without_its_password(text):
    with pytest.raises(ValueError) as caught:
        parse_jaas(text)
    assert "hunter2" not in str(caught.value)
