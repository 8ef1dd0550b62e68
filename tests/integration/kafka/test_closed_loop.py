"""The whole loop on Apache Kafka: real trainings attach, are judged, steered, answer, and end in Parquet."""

import os
import subprocess
import sys

import pandas as pd
import pytest


@pytest.mark.timeout(600)  # on a machine that is busy
def test_the_demonstration_does_on_kafka_what_it_does_on_the_local_log(kafka_broker, kafka_prefix, demo_cache, tmp_path):
    environ = os.environ | {
        "SMART_TUNER_BUS": f"kafka://{kafka_broker.bootstrap}",
        "SMART_TUNER__BUS__KAFKA__PREFIX": kafka_prefix,
        "SMART_TUNER__BUS__KAFKA__PARTITIONS": "4",
        "XDG_CACHE_HOME": demo_cache,
        "OMP_NUM_THREADS": "1",
    }
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "smarttuner.daemon.cli.main", "demo", "--data-dir", str(folder), "--steps", "60"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (folder / "bus.db").exists()
    assert not (folder / "state.db").exists()
    decisions = pd.read_parquet(folder / "decisions")
    assert decisions["id"].is_unique
    applied = decisions[(decisions["status"] == "applied") & (decisions["mode"] == "act")]
    assert {"scale-lr", "prune", "checkpoint"} <= set(applied["action"])
    pruned = set(applied[applied["action"] == "prune"]["run"])
    assert pruned == {"hot", "slip"}
    runs = pd.read_parquet(folder / "runs")
    assert set(runs[runs["state"] == "pruned"]["run"]) == pruned
    metrics = pd.read_parquet(folder / "metrics")
    assert not metrics.duplicated(["attempt", "series", "seq"]).any()
    assert set(metrics["run"]) == {"good", "hot", "slip"}
    assert "restored step" in done.stdout
