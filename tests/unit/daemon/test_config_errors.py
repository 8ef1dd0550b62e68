"""Broken snippets and what is said about them: the place, the path, the message, the hint."""

import textwrap

import pytest
from smarttuner.core.errors import ConfigError
from smarttuner.daemon.config import ConfigProblems, load

SNIPPETS = [
    # (snippet, line, path, message, hint)
    ("patience: 6", 1, "patience", "there is no key patience", "patience belongs under early_stopping.strategies.patience_based"),
    ("monitorin:\n  metrics: {}", 1, "monitorin", "there is no key monitorin", "did you mean monitoring?"),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience: six",
        4,
        "early_stopping.strategies.patience_based.patience",
        '"six" is not a whole number',
        "write patience: 6",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience: 6.5",
        4,
        "early_stopping.strategies.patience_based.patience",
        "6.5 is not a whole number",
        "write patience: 6",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience: 0",
        4,
        "early_stopping.strategies.patience_based.patience",
        "0 is below 1",
        "write 1 or more",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience: true",
        4,
        "early_stopping.strategies.patience_based.patience",
        '"true" is not a whole number',
        "write a whole number",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience: [6]",
        4,
        "early_stopping.strategies.patience_based.patience",
        "a list is not a whole number",
        "write a whole number",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      patience:\n      min_delta: 1",
        4,
        "early_stopping.strategies.patience_based.patience",
        "nothing is not a whole number",
        "write a whole number",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      min_delta: 0,001",
        4,
        "early_stopping.strategies.patience_based.min_delta",
        '"0,001" is not a number',
        "write min_delta: 0.001",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      min_delta: nan",
        4,
        "early_stopping.strategies.patience_based.min_delta",
        "nan is not a number",
        "write a finite number",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      min_delta: 1e999",
        4,
        "early_stopping.strategies.patience_based.min_delta",
        "1e999 is not a number",
        "write a finite number",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      mode: minimum",
        4,
        "early_stopping.strategies.patience_based.mode",
        '"minimum" is not known here',
        "did you mean mode: min?",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_based:\n      restore_best_weights: maybe",
        4,
        "early_stopping.strategies.patience_based.restore_best_weights",
        '"maybe" is neither true nor false',
        "write restore_best_weights: true or false",
    ),
    (
        "early_stopping:\n  strategies:\n    patience_base:\n      patience: 6",
        3,
        "early_stopping.strategies.patience_base",
        "there is no key patience_base",
        "did you mean patience_based?",
    ),
    (
        "early_stopping:\n  strategies:\n    plateau_detection: 4",
        3,
        "early_stopping.strategies.plateau_detection",
        "4 stands where a section belongs",
        "indent its keys",
    ),
    (
        "early_stopping:\n  strategies:\n    plateau_detection:\n      factor: 1",
        4,
        "early_stopping.strategies.plateau_detection.factor",
        "1.0 is not below 1",
        "write a number below 1",
    ),
    (
        "early_stopping:\n  strategies:\n    - patience_based",
        2,
        "early_stopping.strategies",
        "a list stands where a section belongs",
        "indent its keys",
    ),
    (
        "early_stopping:\n  quality_gates:\n    foo: 3",
        3,
        "early_stopping.quality_gates.foo",
        "does not say of which series",
        "min_ or max_",
    ),
    (
        "early_stopping:\n  quality_gates:\n    min_bleu: high",
        3,
        "early_stopping.quality_gates.min_bleu",
        '"high" is not a number',
        "write a finite number",
    ),
    (
        "early_stopping:\n  quality_gates:\n    g:\n      series: a",
        3,
        "early_stopping.quality_gates.g",
        "has neither min nor max",
        "write min: or max:",
    ),
    (
        "early_stopping:\n  quality_gates:\n    g: {min: 3, max: 2}",
        3,
        "early_stopping.quality_gates.g.max",
        "2 is below min (3)",
        "swap them?",
    ),
    (
        "early_stopping:\n  quality_gates:\n    g:\n      min: 3\n      then: kill",
        5,
        "early_stopping.quality_gates.g.then",
        '"kill" is not known here',
        "known: alert, prune",
    ),
    (
        "cicd:\n  deployment:\n    staging_threshold: 0.99\n    production_threshold: 0.97",
        4,
        "cicd.deployment.production_threshold",
        "0.97 is below staging_threshold (0.99)",
        "0.99 or more",
    ),
    (
        "cicd:\n  deployment:\n    staging_threshold: 0.99",
        2,
        "cicd.deployment.production_threshold",
        "0.97 is below staging_threshold (0.99)",
        "0.99 or more",
    ),
    (
        "cicd:\n  deployment:\n    staging_threshold: 95%",
        3,
        "cicd.deployment.staging_threshold",
        '"95%" is not a number',
        "write staging_threshold: 0.95",
    ),
    ("cicd:\n  triggers:\n    scheduled: daily", 3, "cicd.triggers.scheduled", '"daily" is not a cron line', "five fields"),
    (
        "search_space:\n  lr:\n    type: loguniform\n    low: 0\n    high: 1",
        4,
        "search_space.lr.low",
        "0 has no logarithm",
        "type: uniform",
    ),
    ("search_space:\n  lr:\n    type: loguniform", 3, "search_space.lr.type", "type loguniform needs low and high", "write both"),
    (
        "search_space:\n  lr:\n    type: uniform\n    low: 1e-2\n    high: 1e-5",
        5,
        "search_space.lr.high",
        "1e-05 is not above low (0.01)",
        "swap",
    ),
    (
        "search_space:\n  lr:\n    type: uniform\n    low: 0\n    high: 1\n    default: 2",
        6,
        "search_space.lr.default",
        "2 is outside 0 to 1",
        "widen the range",
    ),
    ("search_space:\n  b:\n    type: choice", 3, "search_space.b.type", "type choice needs choices", "choices: [...]"),
    (
        "search_space:\n  b:\n    type: choice\n    choices: [16, 24]\n    default: 32",
        5,
        "search_space.b.default",
        "32 is none of the choices",
        "add it",
    ),
    ("search_space:\n  b:\n    low: 1", 2, "search_space.b.type", "is missing", "write a line `type: …`"),
    (
        "search_space:\n  b:\n    type: uniforn",
        3,
        "search_space.b.type",
        '"uniforn" is not known here',
        "did you mean type: uniform?",
    ),
    (
        "monitoring:\n  metrics:\n    secondary: val_loss",
        3,
        "monitoring.metrics.secondary",
        '"val_loss" is not a list',
        "write secondary: [val_loss]",
    ),
    (
        "monitoring:\n  metrics:\n    secondary:\n      - a\n      - a",
        3,
        "monitoring.metrics.secondary",
        "names a twice",
        "keep one",
    ),
    (
        "monitoring:\n  metrics:\n    secondary:\n      - a\n      - [b]",
        5,
        "monitoring.metrics.secondary[1]",
        "a list is not text",
        "one value",
    ),
    ("monitoring:\n  metrics:\n    primary: ''", 3, "monitoring.metrics.primary", "is empty", "remove the key"),
    ("monitoring:\n  platforms:\n    wandb:", 3, "monitoring.platforms.wandb.project", "is missing", "write a line `project: …`"),
    (
        "monitoring:\n  platforms:\n    slack: {}",
        3,
        "monitoring.platforms.slack",
        "there is no key slack",
        "slack belongs under monitoring.alerts",
    ),
    (
        "monitoring:\n  alerts:\n    email:\n      smtp_server: a\n      recipients: [team]",
        5,
        "monitoring.alerts.email.recipients",
        '"team" is not a mail address',
        "name@host",
    ),
    (
        "monitoring:\n  alerts:\n    email: {smtp_server: a, recipients: []}",
        3,
        "monitoring.alerts.email.recipients",
        "is empty",
        "item",
    ),
    ("resources:\n  gpu:\n    memory_fraction: 1.5", 3, "resources.gpu.memory_fraction", "1.5 is above 1", "write 1 or less"),
    (
        "resources:\n  distributed:\n    world_size: 4\n    rank: 4",
        4,
        "resources.distributed.rank",
        "4 is not below world_size (4)",
        "0 to 3",
    ),
    (
        "audio_processing:\n  preprocessing:\n    n_fft: 512\n    win_length: 1024",
        4,
        "audio_processing.preprocessing.win_length",
        "1024 is above n_fft (512)",
        "512 or less",
    ),
    (
        "optimization:\n  algorithms:\n    bohb: {min_budget: 10, max_budget: 5}",
        3,
        "optimization.algorithms.bohb.max_budget",
        "5 is below min_budget (10)",
        "10 or more",
    ),
    (
        "optimization:\n  primary_engine: raytune",
        2,
        "optimization.primary_engine",
        '"raytune" is not known',
        "did you mean primary_engine: ray_tune?",
    ),
    (
        "core_engine:\n  components: [metric_store]",
        2,
        "core_engine.components[0]",
        '"metric_store" is not known',
        "did you mean metrics_store?",
    ),
    ("core_engine:\n  python_version: 3", 2, "core_engine.python_version", '"3" is not a version', ">=3.11"),
    ("bus:\n  url: redis://x", 2, "bus.url", '"redis://x" is no bus', "kafka://host:port"),
    ("bus:\n  retention_bytes: lots", 2, "bus.retention_bytes", '"lots" is not a size', "64MiB"),
    ("bus:\n  retention_s: 3 fortnights", 2, "bus.retention_s", '"3 fortnights" is not a duration', "10m"),
    ("policies:\n  default: acts", 2, "policies.default", '"acts" is not known here', "did you mean default: act?"),
    ("policies:\n  patience: acts", 2, "policies.patience", '"acts" is not known here', "did you mean patience: act?"),
    ("policies:\n  patience: [act]", 2, "policies.patience", "a list stands where a section belongs", "indent"),
    ("policies:\n  patience:\n    patients: 3", 3, "policies.patience.patients", "has no option 'patients'", "patience?"),
    ("policies:\n  patience:\n    option: {patience: 3}", 3, "policies.patience.option", "there is no key option", "options?"),
    (
        "policies:\n  patience:\n    patience: 3\n    options: {patience: 3}",
        2,
        "policies.patience",
        "stands beside options",
        "keep one",
    ),
    ("policies:\n  mine:\n    when: patience &", 3, "policies.mine.when", "character 11: a condition belongs here", "conditions:"),
    (
        "policies:\n  mine: {when: 'patience(patients=3)'}",
        2,
        "policies.mine.when",
        "character 1: policy patience has no",
        "patience?",
    ),
    ("policies:\n  patience:\n    when: divergence", 2, "policies.patience", "is the name of a policy", "a name of its own"),
    ("policies:\n  mine: {when: divergence, than: alert}", 2, "policies.mine", "is called 'than'", "did you mean then?"),
    ("policies:\n  mine:\n    when: divergence\n    then: explode", 4, "policies.mine.then", '"explode" is not known', "prune"),
    ("policies:\n  mine: {then: alert}", 2, "policies.mine", "no policy is called mine", "when: CONDITIONS"),
    ("watch:\n  match: {name: x}", 1, "watch", "is not a list", "- item"),
    ("watch:\n  - name: x", 2, "watch[0].name", "there is no key name", "name belongs under match here"),
    ("watch:\n  - match:\n      nme: x", 3, "watch[0].match.nme", "there is no key nme", "did you mean name?"),
    ("watch:\n  - match: {name: []}", 2, "watch[0].match.name", "is empty", "at least one"),
    ("watch:\n  - goal: lowest", 2, "watch[0].goal", '"lowest" is not known here', "min, max"),
    ("watch:\n  - mode: acts", 2, "watch[0].mode", '"acts" is not known here', "did you mean mode: act?"),
    (
        "watch:\n  - policies:\n      patiense: act",
        3,
        "watch[0].policies.patiense",
        "no policy is called",
        "did you mean patience?",
    ),
    ("watch:\n  - policies:\n      patience:\n        patience: 0", 4, "watch[0].policies.patience.patience", "patience: 0", ""),
    (
        "watch:\n  - limits:\n      job_policies: maybe",
        3,
        "watch[0].limits.job_policies",
        "neither true nor false",
        "true or false",
    ),
    (
        "watch:\n  - early_stopping: {strategies: {patience_based: {patience: 0}}}",
        2,
        "watch[0].early_stopping.strategies.patience_based.patience",
        "0 is below 1",
        "1 or more",
    ),
    ("limits:\n  mode: off", 2, "limits.mode", '"off" is not known here', "observe"),
    ("monitoring:\n  aliases:\n    val_loss: eval_loss", 3, "monitoring.aliases.val_loss", "is not a list", "[eval_loss]"),
    ("monitoring:\n  aliases: {a: [x], b: [x]}", 2, "monitoring.aliases", "x stands under a and under b", "keep one"),
    ("policies:\n  patiense: {}", 2, "policies.patiense", "no policy is called patiense", "did you mean patience?"),
    ("policies:\n  patience:\n    options: {patients: 3}", 3, "policies.patience.options", "patients", ""),
    ("policies:\n  plateau:\n    options:\n      factor: 2", 3, "policies.plateau.options", "factor: 2", ""),
    ("policies:\n  quality_gate: {options: {min: 3}}", 2, "policies.quality_gate.options", "options of gates", "quality_gates"),
    ("a: 1\na: 2", 2, "a", "stands here twice", "line 1 has it already"),
    ("bus:\n  url: !!python/object x", 2, "bus.url", "is not used here", "without a tag"),
    # syntax
    ("bus:\n\turl: x", 2, "", "not YAML", "spaces, not tabs"),
    ("bus:\n  url: a: b", 2, "", "not YAML", "quote a value"),
    ("bus:\n  url: @x", 2, "", "not YAML", "in quotes"),
    ("bus:\n  url: 'x\nstore: {}\n", 2, "", "not YAML", "close the quotes"),
    ("store: {}\nbus: [1,\n", 3, "", "not YAML", "close the bracket"),
    ("bus:\n  url: x\n url: y", 3, "", "not YAML", "indentation"),
    ("bus: {}\n---\nbus: {}", 2, "", "a second document begins", "one file"),
    ("bus: *x", 1, "bus", "alias *x stands inside or before its anchor", "above"),
    ("bus: &x [*x]", 1, "bus[0]", "alias *x stands inside or before its anchor", "above"),
    ("bus: {}\n? [a]\n: 1", 2, "", "a key is a list", "a key is a word"),
    ("bus: {}\nurl: \x07", 2, "", "character U+0007 is not allowed", "remove it"),
    ("- a", 1, "", "holds a list, not sections", "monitoring:"),
    ("hello", 1, "", "holds one value, not sections", "monitoring:"),
]


@pytest.mark.parametrize(("snippet", "line", "path", "message", "hint"), SNIPPETS)
def test_a_broken_snippet_is_told_with_its_line_its_path_and_a_hint(tmp_path, snippet, line, path, message, hint):
    file = tmp_path / "mine.yaml"
    file.write_text(snippet)
    with pytest.raises(ConfigError) as raised:
        load(file, {})
    said = [one for one in raised.value.problems if message in one.message]
    assert said, raised.value
    text = str(said[0])
    assert text.startswith(f"{file}:{line}: {path}: " if path else f"{file}:{line}: ")
    assert said[0].hint
    assert hint in said[0].hint


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        textwrap.dedent("""\
        store:
          seal_rows: many
          seal_rows: 5000
        early_stopping:
          strategies:
            patience_based:
              patience: six
              min_delta: -1
        monitoring:
          alerts:
            slack: {webhook_url: "${SLACK_WEBHOOK}", chanels: ["#a"]}
        bus:
          retention_s: ${AGE}
    """)
    )
    with pytest.raises(ConfigProblems) as raised:
        load(file, {})
    lines = [one.line() for one in raised.value.problems]
    assert lines == [2, 3, 7, 8, 11, 13]
    assert str(raised.value).count("hint:") == 6
    assert raised.value.exit_code == 3


def test_the_text_is_the_one_of_the_style_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text("early_stopping:\n  strategies:\n    patience_based:\n      patience: six\n")
    with pytest.raises(ConfigProblems) as raised:
        load("configs/mine.yaml", {})
    assert str(raised.value) == (
        'configs/mine.yaml:4: early_stopping.strategies.patience_based.patience: "six" is not a whole number\n'
        "    hint: write patience: 6"
    )


def test_a_file_that_is_no_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"is a directory\n.*hint: give the file in it"):
        load(tmp_path, {})
    with pytest.raises(ConfigError, match=r"there is no such file\n.*hint: smart-tuner config init"):
        load(tmp_path / "none.yaml", {})
    with pytest.raises(ConfigError, match=r"SMART_TUNER_CONFIG: .*no such file"):
        load(None, {"SMART_TUNER_CONFIG": str(tmp_path / "none.yaml")})
    (tmp_path / "utf16.yaml").write_bytes("bus: {}\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"utf16.yaml:1: byte 0xff is not UTF-8\n.*save the file as UTF-8"):
        load(tmp_path / "utf16.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"bus: {}\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: byte 0xe9"):
        load(tmp_path / "latin.yaml", {})
    (tmp_path / "big.yaml").write_bytes(b"# " + b"x" * 300_000)
    with pytest.raises(ConfigError, match="is over 256 KiB"):
        load(tmp_path / "big.yaml", {})
