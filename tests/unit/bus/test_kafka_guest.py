import pytest
from smarttuner.bus.kafka_guest import guest_settings
from smarttuner.core.errors import ConfigError


def test_a_job_takes_its_options_from_a_file_from_json_and_one_by_one_the_later_wins(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=file\nsasl.password=file")
    made = guest_settings(
        "kafka://b",
        {
            "prefix": "p",
            "properties_file": str(file),
            "client": '{"sasl.username": "json", "sasl.password": "json", "client.id": 5}',
            "client__sasl_password": "one",
        },
    )
    assert (made.bootstrap, made.topic("metrics"), made.create_topics) == ("b:9092", "p.default.metrics", False)
    assert made.client == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "json",
        "client.id": "5",
        "sasl_password": "one",
    }


def test_options_that_are_no_object_are_told():
    with pytest.raises(ConfigError, match="no JSON object"):
        guest_settings("kafka://b", {"client": "security.protocol=SSL"})
