"""`smart-tuner demo`: real trainings on this machine, watched, judged, steered; ends with what was decided and why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.errors import SmartTunerError, Unavailable

JOBS = ("plateau", "overfit", "diverge")
READY_S = 30.0
LIMIT_S = 170.0
CHECKPOINT_AFTER = 12
"""Evaluations of the first job after which the demo asks for a checkpoint by hand."""


def register(app: typer.Typer) -> None:
    """Adds `demo`."""

    @app.command(epilog="Example: smart-tuner demo --data-dir /tmp/demo")
    def demo(
        data_dir: Annotated[
            Path | None,
            typer.Option("--data-dir", metavar="DIR", help="Where to keep what happens (else ./demo-data, emptied first)."),
        ] = None,
        evaluations: Annotated[int, typer.Option(min=20, help="Evaluations of each job.")] = 150,
    ) -> None:
        """Runs three small real PyTorch trainings under a daemon of their own and steers them (about a minute)."""
        folder = (data_dir or Path("demo-data")).absolute()
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "bus.db").exists():
            raise SmartTunerError(
                f"{folder} holds the data of another daemon", "name an empty directory: smart-tuner demo --data-dir DIR"
            )
        Demo(folder, evaluations).run()


def say(text: str) -> None:
    """A line of progress on stderr, with the time since the demo began."""
    print(f"[{time.monotonic() - _begun:5.1f} s] {text}", file=sys.stderr, flush=True)


_begun = time.monotonic()


class Demo:
    """One run of the demo: a daemon, three jobs, the decisions as they come, a table at the end."""

    def __init__(self, folder: Path, evaluations: int) -> None:
        self.folder = folder
        self.evaluations = evaluations
        own = {"SMART_TUNER_DATA_DIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        self.environment = os.environ | own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        for name in ("SMART_TUNER_MODE", "SMART_TUNER_RUN", "SMART_TUNER_CONFIG"):
            self.environment.pop(name, None)
        self.shown: dict[str, str] = {}

    def run(self) -> None:
        """Everything, and the processes it started are gone afterwards however it ends."""
        with as_file(files("smarttuner") / "configs" / "small.yaml") as config, self._daemon(config):
            say(f"three trainings start; all that happens is kept in {self.folder}")
            with self._jobs() as jobs:
                self._watch(jobs)
        self._report()

    @contextmanager
    def _daemon(self, config: Path) -> Iterator[None]:
        log = (self.folder / "daemon.log").open("wb")
        command = [
            sys.executable,
            "-m",
            "smarttuner.daemon.cli.main",
            "--data-dir",
            str(self.folder),
            "daemon",
            "--config",
            str(config),
        ]
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            say("the daemon starts")
            self._wait_for(process)
            yield
        finally:
            _end(process, 15.0)
            log.close()

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        from ...bus.query import ask

        until = time.monotonic() + READY_S
        while True:
            try:
                ask(str(self.folder), {"query": "status"}, 2.0)
                return
            except Unavailable:
                if process.poll() is not None or time.monotonic() > until:
                    last = (self.folder / "daemon.log").read_text(errors="replace")[-2000:]
                    raise SmartTunerError(f"the daemon did not start:\n{last}", f"see {self.folder / 'daemon.log'}") from None
                time.sleep(0.1)

    @contextmanager
    def _jobs(self) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        jobs: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for kind in JOBS:
                command = [sys.executable, "-m", "smarttuner.trainer.demo_job", kind, "--evaluations", str(self.evaluations)]
                jobs[kind] = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                threading.Thread(target=_relay, args=(kind, jobs[kind]), daemon=True).start()
            yield jobs
        finally:
            for process in jobs.values():
                _end(process, 5.0)

    def _watch(self, jobs: dict[str, subprocess.Popen[bytes]]) -> None:
        """Shows metrics and decisions as they come; asks for one checkpoint by hand."""
        until, next_line, asked = time.monotonic() + LIMIT_S, 0.0, False
        while any(process.poll() is None for process in jobs.values()):
            if time.monotonic() > until:
                raise SmartTunerError(f"the jobs did not end within {LIMIT_S:g} s", f"see {self.folder / 'daemon.log'}")
            live = self._live()
            if not asked and live.get(JOBS[0], {}).get("points", 0) >= CHECKPOINT_AFTER:
                asked = self._ask_checkpoint()
            self._show_decisions()
            if time.monotonic() >= next_line:
                say("  ".join(f"{run}: {one['text']}" for run, one in sorted(live.items())) or "the trainings load PyTorch")
                next_line = time.monotonic() + 4.0
            time.sleep(0.3)
        for kind, process in jobs.items():
            if process.returncode:
                raise SmartTunerError(f"job {kind} ended with {process.returncode}", "its output stands above")
        time.sleep(1.5)  # the files are published within a second
        self._show_decisions()

    def _live(self) -> dict[str, dict[str, Any]]:
        from ...bus.query import ask

        shown: dict[str, dict[str, Any]] = {}
        for run in ask(str(self.folder), {"query": "runs"}, 5.0)["runs"]:
            last = run["series"].get("val_loss")
            if last:
                shown[run["run"]] = {
                    "points": last["points"],
                    "text": f"{run['state']} val_loss {float(last['value']):.4g} at {last['step']}",
                }
        return shown

    def _ask_checkpoint(self) -> bool:
        command = [
            sys.executable,
            "-m",
            "smarttuner.daemon.cli.main",
            "decide",
            JOBS[0],
            "checkpoint",
            "--reason",
            "the demo asks for one",
        ]
        return subprocess.run(command, env=self.environment, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def _show_decisions(self) -> None:
        from ...consumers.reading import decision_rows

        for row in decision_rows(self.folder):
            if self.shown.get(row["id"]) != row["status"]:
                self.shown[row["id"]] = row["status"]
                what = f"{row['run']}: {row['action']} {row['status']}"
                say(f"** {what}: {row['refused_by'] or row['reason']}")

    def _report(self) -> None:
        from ...consumers.reading import decision_rows
        from .tables import print_table

        rows = decision_rows(self.folder)
        print()
        print_table(("run", "decision", "answer", "at step", "took ms", "what it changed", "why"), [_line(row) for row in rows])
        print()
        total = self.evaluations * 20
        for row in rows:
            if row["action"] == "prune" and row["status"] == "applied":
                step = int(row["applied_step"])
                print(f"{row['run']}: ended at step {step} of {total}: {100 * (1 - step / total):.0f} % of its compute saved")
        _print_alerts(self.folder)
        print("\nWhat happened, in pandas (paste it):\n")
        print(f'{sys.executable} -c "import pandas as pd; d = pd.read_parquet(\'{self.folder / "decisions"}\'); '
              "print(d[['run','action','status','applied_step','reason']].to_string())\"")  # fmt: skip
        missing = {"scale-lr", "prune", "checkpoint"} - {row["action"] for row in rows if row["status"] == "applied"}
        if missing:
            raise SmartTunerError(
                f"no {' and no '.join(sorted(missing))} was applied", f"see {self.folder / 'daemon.log'} and the table above"
            )


def _line(row: dict[str, Any]) -> Sequence[str]:
    detail = {"scale-lr": "factor", "set-lr": "value", "restore": "to", "prune": "restore"}.get(row["action"])
    shown = row["params"].get(detail) if detail else None
    what = row["action"] + (f" ({detail} {shown})" if shown is not None else "")
    took = "" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}"
    step = "" if row["applied_step"] is None else str(row["applied_step"])
    return (row["run"], what, row["status"], step, took, _changed(row), row["refused_by"] or row["reason"])


def _changed(row: dict[str, Any]) -> str:
    before, after = row["before"], row["after"]
    if isinstance(after, dict):
        return "; ".join(f"{name} step {value}" for name, value in after.items())
    if isinstance(before, float) and isinstance(after, float):
        return f"{before:.4g} -> {after:.4g}"
    return "" if after is None else Path(str(after)).name


def _print_alerts(folder: Path) -> None:
    for line in (folder / "daemon.log").read_text(errors="replace").splitlines():
        if "ALERT" in line:
            print(line)


def _relay(kind: str, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"{kind} | {line.decode(errors='replace').rstrip()}")


def _end(process: subprocess.Popen[bytes], wait_s: float) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
