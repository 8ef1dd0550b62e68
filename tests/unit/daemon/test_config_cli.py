"""`smart-tuner config …` as it is typed."""

import json
import pathlib

import jsonschema
import pytest
import smarttuner
import typer
from smarttuner.daemon.cli import config as commands
from smarttuner.daemon.config import load
from smarttuner.daemon.config_docs import json_schema, page, schema_text
from smarttuner.daemon.config_yaml import Plain, parse
from typer.testing import CliRunner

ROOT = pathlib.Path(smarttuner.__file__).parent
SEED = ROOT / "configs/enhanced-smart-tuner.yaml"
BROKEN = "early_stopping:\n  strategies:\n    patience_based:\n      patience: six\n      mod: min\n"
app = typer.Typer(pretty_exceptions_show_locals=False)
commands.register(app)


def run(*arguments, **environ):
    """Without the variables of whoever runs the tests."""
    clean = {"SMART_TUNER_CONFIG": "", "XDG_CONFIG_HOME": "/nonexistent", "HOME": "/nonexistent"}
    return CliRunner(env=clean | environ).invoke(app, ["config", *map(str, arguments)])


def test_validate_says_valid_then_what_is_missing_and_warns_on_stderr():
    result = run("validate", SEED)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"{SEED}: valid"
    assert "  search_space.*.type (9 keys): the search (tune) comes later" in result.stdout.splitlines()
    assert result.stderr.count("smart-tuner: warning: ") == 3


def test_validate_ends_with_3_and_tells_every_mistake_on_stderr(tmp_path):
    (tmp_path / "mine.yaml").write_text(BROKEN)
    result = run("validate", tmp_path / "mine.yaml")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines() == [
        f'smart-tuner: {tmp_path}/mine.yaml:4: early_stopping.strategies.patience_based.patience: "six" is not a whole number',
        "    hint: write patience: 6",
        f"smart-tuner: {tmp_path}/mine.yaml:5: early_stopping.strategies.patience_based.mod: there is no key mod",
        "    hint: did you mean mode?",
    ]


def test_validate_answers_in_json_too(tmp_path):
    (tmp_path / "mine.yaml").write_text(BROKEN)
    result = run("validate", tmp_path / "mine.yaml", "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["valid"], len(said["problems"])) == (3, False, 2)
    assert said["problems"][0]["hint"] == "write patience: 6"
    said = json.loads(run("validate", SEED, "--json").stdout)
    assert said["valid"]
    assert {"path": "optimization", "keys": 13, "missing": "the search (tune) comes later"} in said["missing"]
    assert json.loads(run("validate", tmp_path, "--json").stdout)["problems"][0]["message"].endswith("is a directory")


def test_strict_makes_errors_of_what_would_be_off():
    result = run("validate", SEED, "--strict")
    assert result.exit_code == 3
    assert "SLACK_WEBHOOK is not set" in result.stderr
    environ = {"NEPTUNE_API_TOKEN": "t", "SLACK_WEBHOOK": "s", "DISCORD_WEBHOOK": "d"}
    assert run("validate", SEED, "--strict", **environ).exit_code == 0


def test_without_a_file_the_defaults_are_shown_and_variables_are_seen(tmp_path):
    assert run("validate").stdout.startswith("no configuration file: the defaults apply")
    assert (
        run("show", SMART_TUNER__BUS__RETENTION_S="99").stdout.count("  retention_s: 99.0  # SMART_TUNER__BUS__RETENTION_S\n") == 1
    )
    (tmp_path / "c.yaml").write_text("bus: {retention_s: 77}")
    assert f"retention_s: 77.0  # {tmp_path}/c.yaml:1" in run("show", SMART_TUNER_CONFIG=str(tmp_path / "c.yaml")).stdout


def test_show_masks_secrets_and_names_origins(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "monitoring:\n  platforms:\n    mlflow: {tracking_uri: 'http://me:hunter2@host'}\n"
        "  alerts:\n    slack:\n      webhook_url: ${HOOK}\n"
    )
    result = run("show", tmp_path / "c.yaml", HOOK="https://hunter2")
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert f'      webhook_url: "**********"  # {tmp_path}/c.yaml:6' in result.stdout.splitlines()
    shown = json.loads(run("show", tmp_path / "c.yaml", "--json", HOOK="https://hunter2").stdout)
    assert shown["config"]["monitoring"]["platforms"]["mlflow"]["tracking_uri"] == "http://**********@host"
    assert shown["places"]["monitoring.alerts.slack.webhook_url"] == f"{tmp_path}/c.yaml:6"


def test_what_show_prints_is_the_same_configuration(tmp_path):
    shown = tmp_path / "shown.yaml"
    shown.write_text(run("show", SEED).stdout)
    assert load(shown, {}).config == load(SEED, {}).config


def test_init_writes_a_valid_file_once_and_never_over_another(tmp_path):
    target = tmp_path / "new" / "mine.yaml"
    result = run("init", target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert load(target, {}, strict=True).warnings == []
    target.write_text("mine")
    result = run("init", target)
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert target.read_text() == "mine"
    assert list(target.parent.iterdir()) == [target]
    assert run("init", XDG_CONFIG_HOME=str(tmp_path)).stdout == f"{tmp_path}/smart-tuner/config.yaml\n"
    assert run("init", target / "below").exit_code == 1


@pytest.mark.parametrize("command", ["validate", "show", "schema", "init"])
def test_help_has_an_example(command):
    assert f"Example: smart-tuner config {command}" in run(command, "--help").stdout


# -- what is published ---------------------------------------------------------------------------------------------


def plain(value):
    """The tree as an editor's YAML 1.2 reader sees it."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, Plain):
        from smarttuner.daemon.config_types import scalar

        return scalar(value)
    return value


def test_the_published_schema_is_current():
    assert (ROOT / "docs/config.schema.json").read_text() == schema_text()
    assert run("schema").stdout == schema_text()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_files_validate_against_the_schema(file):
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.Draft202012Validator(json_schema()).validate(plain(parse(file.read_text(), "f").tree))
    load(file, {})


@pytest.mark.parametrize(
    "text",
    [
        "early_stoping: {}",
        "resources: {gpu: {max_gpus: -1}}",
        "policies: {default: acts}",
        "policies: {x: {y: [1]}}",
        "watch: [{name: x}]",
    ],
)
def test_the_schema_refuses_mistakes(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(parse(text, "f").tree), json_schema())


def test_the_page_of_keys_is_current():
    text = (ROOT / "docs/configuration.md").read_text()
    assert text == page(text)
