"""${…} and SMART_TUNER__ variables."""

import pytest
from smarttuner.daemon.config import ConfigProblems, load

TRACKER = 'monitoring:\n  platforms:\n    wandb:\n      project: a\n      entity: "{}"\n'
PRIMARY = 'monitoring:\n  metrics:\n    primary: "{}"\n'


def write(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return file


def primary(tmp_path, written, environ=None):
    return load(write(tmp_path, PRIMARY.format(written)), environ or {}).config.monitoring.metrics.primary


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${A}", "x"),
        ("${A}/${B}", "x/y"),
        ("${NO:-z}", "z"),
        ("${EMPTY:-z}", "z"),
        ("${A:-z}", "x"),
        ("${NO:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$$A", "$A"),
        ("costs 5$", "costs 5$"),
        ("${C}", "${A}"),
    ],
)
def test_references_are_replaced_once(tmp_path, written, read):
    assert primary(tmp_path, written, {"A": "x", "B": "y", "C": "${A}", "EMPTY": ""}) == read


def test_a_file_gives_its_text_without_the_last_line_end(tmp_path):
    (tmp_path / "name").write_text("mel_loss\n")
    assert primary(tmp_path, "${file:" + str(tmp_path / "name") + "}") == "mel_loss"
    assert primary(tmp_path, "${file:name}") == "mel_loss"


def test_a_reference_may_stand_for_a_number(tmp_path):
    file = write(tmp_path, "decisions:\n  not_after_s: ${AGE:-30}\n")
    assert load(file, {}).config.decisions.not_after_s == 30
    assert load(file, {"AGE": "2m"}).config.decisions.not_after_s == 120


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NO}", "NO is not set"),
        ("${EMPTY}", "EMPTY is empty"),
        ("${A", "${A is not closed by }"),
        ("${a${A}}", "${a$ is not closed by }"),
        ("${}", '"" is not the name of a variable'),
        ("${1x}", '"1x" is not the name of a variable'),
        ("${A:?oops}", '"A:?oops" is not the name of a variable'),
        ("${file:none}", "none: No such file or directory"),
        ("${file:.}", "Is a directory"),
        ("${file:empty}", "empty is empty"),
        ("${file:binary}", "binary is not UTF-8 text"),
        ("${file:huge}", "huge is over 64 KiB"),
    ],
)
def test_what_cannot_be_filled_in_is_told_with_its_line(tmp_path, written, message):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_text("x" * 70_000)
    with pytest.raises(ConfigProblems) as raised:
        primary(tmp_path, written, {"EMPTY": "", "A": "x"})
    (problem,) = raised.value.problems
    assert message in problem.message
    assert problem.line() == 3
    assert problem.hint


def test_an_optional_part_without_its_variable_is_off_with_one_warning(tmp_path):
    file = write(tmp_path, TRACKER.format("${ENTITY}") + '    neptune: {project: "${PROJECT}", api_token: "${TOKEN}"}\n')
    loaded = load(file, {"ENTITY": "team"})
    assert loaded.config.monitoring.platforms.wandb.entity == "team"
    assert loaded.config.monitoring.platforms.neptune is None
    assert [one.partition("\n")[0] for one in loaded.warnings] == [
        f"{file}:6: monitoring.platforms.neptune.project: PROJECT is not set: neptune is off"
    ]
    assert "monitoring.platforms.neptune" in [one.path for one in loaded.missing]


def test_a_part_that_is_off_is_an_error_when_strict(tmp_path):
    file = write(tmp_path, TRACKER.format("${ENTITY}"))
    with pytest.raises(ConfigProblems, match="ENTITY is not set"):
        load(file, {}, strict=True)
    assert load(file, {"ENTITY": "team"}, strict=True).warnings == []


def test_a_mistake_in_a_part_that_is_off_is_still_told(tmp_path):
    with pytest.raises(ConfigProblems) as raised:
        load(write(tmp_path, TRACKER.format("${ENTITY}") + "      sync_tensorbord: true\n"), {})
    assert [one.message for one in raised.value.problems] == ["there is no key sync_tensorbord"]


def test_the_value_of_a_variable_is_never_quoted(tmp_path):
    file = write(tmp_path, 'decisions:\n  not_after_s: "${PASSWORD}"\n')
    with pytest.raises(ConfigProblems) as raised:
        load(file, {"PASSWORD": "hunter2"})
    assert "hunter2" not in str(raised.value)
    assert '"${PASSWORD}" is not a duration' in str(raised.value)


def test_a_secret_is_never_shown_not_even_where_it_is_wrong(tmp_path):
    slack = "monitoring:\n  alerts:\n    slack:\n      webhook_url: {}\n"
    loaded = load(write(tmp_path, slack.format("https://hooks/T0/hunter2")), {})
    assert "hunter2" not in repr(loaded) + loaded.config.model_dump_json()
    assert loaded.config.monitoring.alerts.slack.webhook_url.get_secret_value() == "https://hooks/T0/hunter2"
    with pytest.raises(ConfigProblems) as raised:
        load(write(tmp_path, slack.format("[hunter2]")), {})
    assert "hunter2" not in str(raised.value)
    assert "is not text" in str(raised.value)


def test_variables_win_over_the_file(tmp_path):
    file = write(tmp_path, "bus:\n  retention_s: 100\nsearch_space:\n  Lr: {type: uniform, low: 0, high: 1}\n")
    config = load(
        file,
        {
            "SMART_TUNER__BUS__RETENTION_S": "200",
            "SMART_TUNER__BUS__KAFKA__CREATE_TOPICS": "off",
            "SMART_TUNER__MONITORING__METRICS__SECONDARY": "[a, b]",
            "SMART_TUNER__SEARCH_SPACE__LR__HIGH": "1e1",
            "SMART_TUNER__EARLY_STOPPING__STRATEGIES__PATIENCE_BASED": "{patience: 9, mode: max}",
            "SMART_TUNER__MONITORING__ALERTS__SLACK__WEBHOOK_URL": "#s: [e]c {r} 'et",
            "SMART_TUNER_MODE": "observe",
            "PATH": "/bin",
        },
    ).config
    assert config.bus.retention_s == 200
    assert config.bus.kafka.create_topics is False
    assert config.monitoring.metrics.secondary == ["a", "b"]
    assert config.search_space["Lr"].high == 10
    assert config.early_stopping.strategies.patience_based.patience == 9
    assert config.early_stopping.strategies.patience_based.mode == "max"
    assert config.monitoring.alerts.slack.webhook_url.get_secret_value() == "#s: [e]c {r} 'et"


def test_variables_alone_are_a_configuration():
    assert load(None, {"SMART_TUNER__LIMITS__DECISIONS_PER_HOUR": "3"}).config.limits.decisions_per_hour == 3


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SMART_TUNER__BUS__RETENTION_S", "long", 'bus.retention_s: "long" is not a duration'),
        (
            "SMART_TUNER__BUS__KAFKA__CREATE_TOPIC",
            "on",
            "bus.kafka.create_topic: there is no key create_topic\n    hint: did you mean create_topics?",
        ),
        ("SMART_TUNER__BUSS__URL", "local:", "buss: there is no key buss"),
        ("SMART_TUNER__BUS____URL", "local:", "names no key"),
        ("SMART_TUNER__", "x", "names no key"),
        ("SMART_TUNER__BUS", "x", 'bus: "x" stands where a section belongs'),
        ("SMART_TUNER__BUS__URL__X", "x", "bus.url: is no section: no key in it can be set"),
        ("SMART_TUNER__MONITORING__METRICS__SECONDARY", "[a", "monitoring.metrics.secondary: not YAML"),
        ("SMART_TUNER__STORE", "{seal_rows: 5000, seal_rows: 6000}", "store.seal_rows: stands here twice"),
        ("SMART_TUNER__STORE", "{seal_rows: 1}", "store.seal_rows: 1 is below 1000"),
        ("SMART_TUNER__MONITORING__METRICS__PRIMARY", "${NO}", "monitoring.metrics.primary: NO is not set"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(tmp_path, variable, value, said):
    file = write(tmp_path, "bus:\n  url: 'local:'\n")
    with pytest.raises(ConfigProblems) as raised:
        load(file, {variable: value})
    assert str(raised.value).startswith(f"{variable}: {said}")
