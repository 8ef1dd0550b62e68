"""Which keys act, and what is missing until the others do: one table, held against the models by a test.

A row is (keys, test, missing). `*` stands for one name, `**` at the end for everything below. `test` names the test that fails when
the keys are ignored; `missing` says in a sentence what has to come before they act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

ACTS = "tests/unit/daemon/test_config_acts.py::"
LIMITS = "tests/unit/daemon/test_limits.py::"
WIRED = "tests/unit/daemon/test_wiring.py::"
TACOTRON2 = "tests/unit/tacotron2/test_settings.py::"
CLI = "tests/unit/daemon/test_command_line.py::"
SCOPE = "tests/unit/daemon/test_scope.py::"
KAFKA = "tests/unit/daemon/test_config_kafka.py::"


class Row(NamedTuple):
    """Keys with one fate."""

    keys: str
    test: str = ""
    missing: str = ""

    def covers(self, path: tuple[str, ...]) -> bool:
        """Whether `path` is among the keys."""
        steps = self.keys.split(".")
        if steps[-1] == "**":
            steps = steps[:-1]
            path = path[: len(steps)]
        return len(steps) == len(path) and all(one in ("*", other) for one, other in zip(steps, path, strict=True))

    def prefix(self) -> str:
        """The keys as a person reads them."""
        return self.keys.removesuffix(".**").removesuffix(".*")


@dataclass(frozen=True)
class Missing:
    """Keys of the file that do not act yet."""

    path: str
    keys: int
    what: str

    def __str__(self) -> str:
        return f"{self.path} ({self.keys} key{'s' if self.keys > 1 else ''}): {self.what}"


def missing(keys: str, what: str) -> Row:
    """Keys that do not act until what `what` says has come."""
    return Row(keys, missing=what)


def acts(keys: str, test: str, module: str = ACTS) -> Row:
    """Keys that act: the named test fails when they are ignored."""
    return Row(keys, test=module + test)


LABEL = "a name for people; nothing depends on it"
TABLE = (
    missing("core_engine.name", LABEL),
    missing("core_engine.version", LABEL),
    acts("core_engine.language", "test_another_language_is_refused"),
    acts("core_engine.python_version", "test_a_python_that_is_not_meant_is_refused"),
    acts("core_engine.framework", "test_another_framework_is_refused"),
    missing("core_engine.components", "every part that is built runs; choosing among them comes with the parts of later issues"),
    missing("optimization.**", "the search (tune) comes later"),
    acts("search_space.*.default", "test_the_defaults_of_the_search_space_are_the_jobs_parameters", TACOTRON2),
    missing("search_space.*.type", "the search (tune) comes later"),
    missing("search_space.*.low", "the search (tune) comes later"),
    missing("search_space.*.high", "the search (tune) comes later"),
    missing("search_space.*.choices", "the search (tune) comes later"),
    missing("monitoring.platforms.mlflow.**", "the MLflow mirror comes later; metrics stay local"),
    missing("monitoring.platforms.wandb.**", "the Weights & Biases mirror comes later; metrics stay local"),
    acts("monitoring.platforms.tensorboard.**", "test_tensorboard_is_on_where_it_is_named", TACOTRON2),
    missing("monitoring.platforms.neptune.**", "Neptune's hosted service closed on 2026-03-05; its offline format comes later"),
    acts("monitoring.metrics.primary", "test_the_primary_series_is_judged_and_no_other"),
    missing("monitoring.metrics.secondary", "all series are stored; showing these beside the judged one comes later"),
    missing("monitoring.alerts.**", "alerts are lines of notices (status shows them); delivery comes later"),
    acts("monitoring.aliases.*", "test_a_series_goes_by_the_written_names"),
    acts("watch.*.match.**", "test_a_match_is_looked_at_key_by_key", SCOPE),
    acts("watch.*.monitor", "test_an_entry_has_its_own_series_and_direction", SCOPE),
    acts("watch.*.goal", "test_an_entry_has_its_own_series_and_direction", SCOPE),
    acts("watch.*.mode", "test_the_strictest_mode_holds", SCOPE),
    acts("watch.*.policies.**", "test_the_policies_of_an_entry_take_the_place_of_the_files", SCOPE),
    acts("watch.*.early_stopping.**", "test_the_policies_of_an_entry_take_the_place_of_the_files", SCOPE),
    acts("watch.*.limits.**", "test_what_a_job_says_holds_within_the_limits_of_its_entry", SCOPE),
    missing("watch.*.alerts", "alerts are lines of notices (status shows them); routes come with delivery"),
    acts("early_stopping.strategies.divergence.**", "test_divergence_has_its_own_options"),
    acts("early_stopping.strategies.stall.**", "test_stall_has_its_own_options"),
    acts("early_stopping.strategies.extrapolation.**", "test_extrapolation_has_its_own_options"),
    acts("early_stopping.strategies.median.**", "test_median_has_its_own_options"),
    acts("early_stopping.strategies.halving.**", "test_halving_has_its_own_options"),
    acts("early_stopping.strategies.patience_based.patience", "test_patience_is_counted_in_points"),
    acts("early_stopping.strategies.patience_based.min_delta", "test_min_delta_says_what_an_improvement_is"),
    acts("early_stopping.strategies.patience_based.mode", "test_mode_says_whether_low_or_high_is_better"),
    acts("early_stopping.strategies.patience_based.restore_best_weights", "test_restore_best_weights_asks_the_job_to_keep_them"),
    acts("early_stopping.strategies.plateau_detection.factor", "test_the_plateau_factor_is_the_decided_one"),
    acts("early_stopping.strategies.plateau_detection.patience", "test_the_plateau_patience_lets_points_pass"),
    acts("early_stopping.strategies.plateau_detection.threshold", "test_the_plateau_threshold_is_relative_to_the_best"),
    acts("early_stopping.strategies.plateau_detection.cooldown", "test_the_plateau_cooldown_keeps_still"),
    acts("early_stopping.strategies.improvement_threshold.min_improvement_percent", "test_the_least_improvement_is_asked_for"),
    acts("early_stopping.strategies.improvement_threshold.evaluation_window", "test_the_improvement_is_taken_over_the_window"),
    acts("early_stopping.quality_gates.**", "test_a_quality_gate_is_looked_at_as_written"),
    acts("resources.gpu.**", "test_what_a_gpu_may_be_taken_of", TACOTRON2),
    acts("resources.distributed.**", "test_as_many_ranks_as_configured_and_possible", TACOTRON2),
    acts("resources.checkpointing.**", "test_checkpoints_are_written_kept_and_packed_as_configured", TACOTRON2),
    acts("resources.memory_optimization.**", "test_memory_is_saved_as_configured", TACOTRON2),
    acts("audio_processing.**", "test_the_sound_is_as_configured", TACOTRON2),
    missing("experiment_tracking.versioning.**", "the model registry comes later"),
    missing("experiment_tracking.metadata.**", "notes of code, environment and system come later"),
    acts("experiment_tracking.reproducibility.**", "test_seed_and_determinism_are_as_configured", TACOTRON2),
    missing("cicd.triggers.**", "checks and delivery of models come later"),
    missing("cicd.quality_checks", "checks and delivery of models come later"),
    missing("cicd.deployment.**", "promotion comes later; production_threshold below staging_threshold is refused already"),
    missing("security.secrets_management.**", "secrets come from ${ENV} and ${file:…}; Vault comes later"),
    missing("security.access_control.**", "roles and the audit log come later: nobody's role is checked yet"),
    missing("security.data_privacy.**", "nothing is anonymized or encrypted yet"),
    acts("bus.url", "test_the_bus_of_the_file_holds_where_none_was_given", CLI),
    acts("bus.retention_bytes", "test_the_log_keeps_as_many_bytes_as_written", WIRED),
    acts("bus.retention_s", "test_the_log_keeps_records_as_long_as_written", WIRED),
    acts("bus.kafka.create_topics", "test_a_missing_topic_is_made_only_where_that_is_allowed", KAFKA),
    acts("bus.kafka.prefix", "test_the_names_of_topics_and_groups_are_the_written_ones", KAFKA),
    acts("bus.kafka.namespace", "test_the_names_of_topics_and_groups_are_the_written_ones", KAFKA),
    acts("bus.kafka.partitions", "test_the_topics_have_as_many_partitions_and_replicas_as_written", KAFKA),
    acts("bus.kafka.replication_factor", "test_the_topics_have_as_many_partitions_and_replicas_as_written", KAFKA),
    acts("bus.kafka.client.*", "test_options_are_taken_by_their_kafka_names_and_secrets_come_from_outside", KAFKA),
    acts("bus.kafka.properties_file", "test_a_properties_file_is_read_below_the_options_and_beside_the_configuration", KAFKA),
    acts("policies.default", "test_unnamed_policies_have_the_default_mode"),
    acts("policies.*.mode", "test_a_named_policy_has_its_own_mode"),
    acts("policies.*.options.*", "test_options_of_a_policy_win_over_its_section"),
    acts("policies.*.when", "test_a_rule_of_conditions_does_what_is_written"),
    acts("policies.*.then", "test_a_rule_of_conditions_does_what_is_written"),
    acts("limits.job_policies", "test_what_a_job_says_holds_within_the_limits_of_the_file", SCOPE),
    acts("limits.job_monitor", "test_what_a_job_says_holds_within_the_limits_of_the_file", SCOPE),
    acts("limits.mode", "test_the_strictest_mode_holds", SCOPE),
    acts("limits.decisions_per_hour", "test_the_rate_limit_is_the_written_one"),
    acts("limits.prunes_per_hour", "test_a_group_loses_as_many_runs_an_hour_as_written", LIMITS),
    acts("limits.never_last_of_group", "test_the_last_live_run_of_a_group_is_ended_only_where_that_is_written", LIMITS),
    acts("limits.min_peer_progress", "test_peers_end_a_run_behind_the_written_share_of_their_progress", LIMITS),
    acts("limits.points_per_s", "test_the_edge_reads_as_many_points_as_written", WIRED),
    acts("limits.user_points_per_s", "test_the_edge_reads_as_many_points_as_written", WIRED),
    acts("decisions.not_after_s", "test_decisions_expire_after_the_written_time"),
    acts("store.url", "test_the_store_lies_where_the_file_says", WIRED),
    acts("store.seal_rows", "test_a_metrics_file_is_sealed_at_as_many_rows_as_written", WIRED),
    acts("store.retention_days", "test_metrics_leave_the_store_at_the_age_written", WIRED),
    acts("store.publish_s", "test_rows_are_published_as_often_as_written", WIRED),
)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of a file's values; a list is one value, but for a list of sections."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from leaves(value, (*path, str(name)))
    elif isinstance(tree, list) and any(isinstance(one, Mapping) for one in tree):
        for i, one in enumerate(tree):
            yield from leaves(one, (*path, str(i)))
    else:
        yield path


def missing_in(tree: Mapping[str, Any]) -> list[Missing]:
    """What stands in the file and does not act yet, in the order of the table."""
    paths = list(leaves(tree))
    counts = [(row, sum(row.covers(path) for path in paths)) for row in TABLE if row.missing]
    return [Missing(row.prefix(), count, row.missing) for row, count in counts if count]
