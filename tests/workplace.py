"""Real daemons and real jobs, each a process of its own, in a workplace that no other test shares."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pandas
from smarttuner.bus import query
from smarttuner.core.errors import Unavailable

JOBS = pathlib.Path(__file__).parent / "integration" / "faults"
PATIENCE_S = 60.0
COMMAND = (sys.executable, "-m", "smarttuner.daemon.cli.main")


def until(claim, timeout_s=PATIENCE_S, every_s=0.02, told=lambda: ""):
    """What `claim` gives as soon as it is true; `told` explains why it never was."""
    deadline = time.monotonic() + timeout_s
    while not (found := claim()):
        assert time.monotonic() < deadline, f"it did not come to pass: {told()}"
        time.sleep(every_s)
    return found


class Daemon:
    """One daemon process over a workplace's data directory; what it says is appended to daemon.log."""

    def __init__(self, place, *arguments, launcher=COMMAND, **environment):
        self.place = place
        with place.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*launcher, "--data-dir", str(place.data), "daemon", "--config", str(place.config), *arguments],
                env=place.environment | environment,
                stdout=log,
                stderr=log,
            )
        place.processes.append(self.process)
        self.pid = self.process.pid

    @property
    def alive(self):
        return self.process.poll() is None

    def ask(self, query_name="status", **fields):
        """The daemon's answer; None while there is none."""
        try:
            return query.ask(str(self.place.data), {"query": query_name, **fields}, 10.0)
        except Unavailable:
            return None

    def ready(self):
        """Waits until it answers."""

        def answers():
            assert self.alive, f"it ended with {self.process.returncode}:\n{self.place.said()}"
            return self.ask()

        until(answers, told=self.place.said)
        return self

    def counter(self, name):
        return self.ask()["counters"].get(name, 0)

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s=PATIENCE_S):
        """SIGTERM; the exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout_s)


class Job:
    """One job process, with what it wrote down of itself."""

    def __init__(self, place, script, name, options, environment):
        self.place, self.name = place, name
        self.folder = place.notes / name
        self.folder.mkdir(parents=True)
        with (self.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(JOBS / script), name, str(self.folder), json.dumps(options)],
                env=place.environment | environment,
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        place.processes.append(self.process)

    def lines(self, name):
        """The JSON lines that it wrote into one of its notes; a last line cut by a kill is left out."""
        path = self.folder / name
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def logged(self):
        """How many log() calls have returned."""
        path = self.folder / "count"
        return int.from_bytes(path.read_bytes()[:8], sys.byteorder) if path.exists() else 0

    def said(self):
        return (self.folder / "said").read_text(errors="replace")

    def reaches(self, count, timeout_s=PATIENCE_S):
        """Waits until it has logged `count` times."""

        def there():
            assert self.process.poll() is None or self.logged >= count, self.said()
            return self.logged >= count

        until(there, timeout_s, told=self.said)
        return self

    def tell_to_end(self):
        (self.folder / "end").touch()

    def ended(self):
        """Waits for its end; the exit code."""
        return self.process.wait(PATIENCE_S)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Workplace:
    """A data directory, a user's home beside it, and the processes that were started; they are gone when it is shut."""

    def __init__(self, folder):
        self.folder = folder
        self.data, self.state, self.notes = folder / "data", folder / "state", folder / "jobs"
        self.log, self.config = folder / "daemon.log", folder / "config.yaml"
        self.spools = self.state / "smart-tuner" / "spool"
        self.processes = []
        self.notes.mkdir(parents=True)
        self.config.write_text("limits: {decisions_per_hour: 100000}\nstore: {publish_s: 0.2}\n")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SMART_TUNER", "XDG_"))}
        own = {"SMART_TUNER_DATA_DIR": self.data, "XDG_STATE_HOME": self.state, "HOME": folder}
        self.environment = clean | {name: str(value) for name, value in own.items()} | {"OMP_NUM_THREADS": "1"}

    def daemon(self, *arguments, **environment):
        return Daemon(self, *arguments, **environment)

    def job(self, name, script="streaming_job.py", environment=None, **options):
        return Job(self, script, name, options, environment or {})

    def cli(self, *arguments, **environment):
        """A command of the command line, run to its end."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def status(self):
        """(exit code, what `status --json` says)."""
        done = self.cli("status", "--json")
        return done.returncode, json.loads(done.stdout)

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def metrics(self):
        return pandas.read_parquet(self.data / "metrics")

    def runs(self):
        return pandas.read_parquet(self.data / "runs")

    def decisions(self, **having):
        """The rows of decisions/ that have these values, as a bare read gives them but for None where there is nothing."""
        rows = pandas.read_parquet(self.data / "decisions").to_dict("records")
        plain = [{key: None if value is None or value != value else value for key, value in row.items()} for row in rows]
        return [row for row in plain if all(row[key] == value for key, value in having.items())]

    def states(self):
        """(state, ended_by) of each run's last attempt."""
        rows = self.runs().sort_values("attempt_number").to_dict("records")
        return {row["run"]: (row["state"], row["ended_by"] if isinstance(row["ended_by"], str) else None) for row in rows}

    def whole(self, run, logged, exact=True):
        """Asserts that of each of the run's own series every step below `logged` is stored once, in order, with its value;
        of a killed job also one that was logged and not counted any more. Lets no (attempt, source, seq) come twice."""
        rows = self.metrics()
        assert not rows.duplicated(["attempt", "source", "seq"]).any(), "a point is stored twice"
        rows = rows[(rows["run"] == run) & rows["series"].isin(["x", "y", "z"])]
        for name, group in rows.groupby("series"):
            assert len(group) == logged or (not exact and len(group) == logged + 1), f"{run} {name}: {len(group)} of {logged}"
            by_seq = group.sort_values("seq")
            assert by_seq["step"].tolist() == list(range(len(group))), f"{run} {name}: steps are missing or not in order"
            assert by_seq["value"].tolist() == [step * 8.0 + "xyz".index(name) for step in range(len(group))]
        assert logged == 0 or set(rows["series"]) == {"x", "y", "z"}

    def shut(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
