"""`smart-tuner demo`: real trainings on this machine, watched, judged, steered; ends with what was decided and why."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Any

import typer

from ...core.errors import SmartTunerError, Unavailable
from .demo_report import Result, report
from .demo_trainings import SPEAKS, UTTERANCES, Plan, check_installed, command, plans, speech_folder, surroundings

READY_S = 60.0
SILENCE_S = 300.0
"""Nothing new from any training for so long ends the demo; a slow machine alone does not."""
LINE_EVERY_S = 4.0
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
CHECKPOINT_AFTER = 2
"""Evaluations of the good training after which the demo asks for a checkpoint by hand."""


def register(app: typer.Typer) -> None:
    """Adds `demo`."""

    @app.command(epilog="Example: smart-tuner demo --data-dir /tmp/demo")
    def demo(
        data_dir: Annotated[
            Path | None,
            typer.Option("--data-dir", metavar="DIR", help="Where to keep what happens (else ./demo-data, emptied first)."),
        ] = None,
        steps: Annotated[int, typer.Option(min=60, metavar="N", help="Steps of the training that learns to speak.")] = 240,
    ) -> None:
        """Trains Tacotron 2 three times, from good and from bad settings, under a daemon that steers it (about a minute)."""
        check_installed()
        folder = (data_dir or Path("demo-data")).absolute()
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "bus.db").exists() or (folder / "decisions").exists():
            raise SmartTunerError(
                f"{folder} holds the data of another daemon", "name an empty directory: smart-tuner demo --data-dir DIR"
            )
        with _ended_by_signals():
            Demo(folder, plans(steps)).run()


def say(text: str) -> None:
    """A line of progress on stderr, with the time since the demo began."""
    print(f"[{time.monotonic() - _begun:5.1f} s] {text}", file=sys.stderr, flush=True)


_begun = time.monotonic()


class Demo:
    """One run of the demo: a daemon, three trainings, the decisions as they come, a report at the end."""

    def __init__(self, folder: Path, trainings: tuple[Plan, ...]) -> None:
        self.folder, self.plans = folder, trainings
        self.environment = surroundings(folder, os.environ)
        self.shown: dict[str, str] = {}

    def run(self) -> None:
        """Everything, and the processes it started are gone afterwards however it ends."""
        with as_file(files("smarttuner") / "configs" / "small.yaml") as config, self._daemon(config):
            speech = self._speech()
            say(f"{len(self.plans)} trainings of Tacotron 2 start; all that happens is kept in {self.folder}")
            for plan in self.plans:
                say(f"  {plan.name}: {plan.about}")
            with self._trainings(config, speech) as trainings:
                results = self._watch(trainings)
        report(self.folder, speech, self.plans, results)

    @contextmanager
    def _daemon(self, config: Path) -> Iterator[None]:
        with (self.folder / "daemon.log").open("wb") as log, ExitStack() as ends:
            say("the daemon starts")
            process = self._start(ends, command("daemon", "--config", str(config)), log, log)
            self._wait_for(process)
            yield

    def _start(self, ends: ExitStack, line: list[str], out: int | IO[bytes], errors: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """A process of the demo's, in a session of its own: Ctrl-C reaches the demo alone, which then ends the others in order.
        Where a SIGKILL leaves it no time for that, the kernel ends them."""
        process = subprocess.Popen(
            line,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # one system call, in a process of one thread or two
        )
        ends.callback(_end, process)
        return process

    def _wait_for(self, daemon: subprocess.Popen[bytes]) -> None:
        from ...bus.query import ask

        until = time.monotonic() + READY_S
        while True:
            try:
                ask(str(self.folder), {"query": "status"}, 2.0)
                return
            except Unavailable:
                if daemon.poll() is not None or time.monotonic() > until:
                    raise SmartTunerError(
                        f"the daemon did not start:\n{_tail(self.folder / 'daemon.log')}", "see its log"
                    ) from None
                time.sleep(0.1)

    def _speech(self) -> Path:
        """The dataset, spoken the first time and kept."""
        speech = speech_folder(self.environment)
        if not (speech / "metadata.csv").exists():
            say(f"espeak-ng speaks {UTTERANCES} sentences into {speech}")
            line = command("dataset", "synth", str(speech), "--count", str(UTTERANCES))
            done = subprocess.run(line, env=self.environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SmartTunerError(f"there is no speech to learn from: {done.stderr.strip()}", f"look at {speech.parent}")
        return speech

    @contextmanager
    def _trainings(self, config: Path, speech: Path) -> Iterator[list[Training]]:
        with ExitStack() as ends:
            started = []
            for plan in self.plans:
                log = ends.enter_context((self.folder / f"{plan.name}.log").open("wb"))
                line = command(*plan.arguments(config, speech, self.folder / "trainings"))
                started.append(Training(plan, self._start(ends, line, subprocess.PIPE, subprocess.PIPE), log))
            for one in started:
                ends.callback(one.terminate)  # all at once, before each is waited for
            yield started

    def _watch(self, trainings: list[Training]) -> dict[str, Result]:
        """Shows metrics and decisions as they come; asks for one checkpoint by hand. Ends when every training has."""
        line_at, asked, seen, since = 0.0, False, "", time.monotonic()
        while any(one.running for one in trainings):
            live = self._live()
            now, known = time.monotonic(), f"{live} {[one.running for one in trainings]}"
            if known != seen:
                seen, since = known, now
            if now - since > SILENCE_S:
                raise SmartTunerError(f"no training did anything for {SILENCE_S:g} s", f"see the logs in {self.folder}")
            if not asked and live.get(SPEAKS, {}).get("points", 0) >= CHECKPOINT_AFTER:
                asked = self._ask_checkpoint()
            self._show_decisions()
            if now >= line_at:
                say("  ".join(f"{run}: {one['text']}" for run, one in sorted(live.items())) or "the trainings load PyTorch")
                line_at = now + LINE_EVERY_S
            time.sleep(0.3)
        results = {one.plan.name: one.result() for one in trainings}
        self._until_stored(len(trainings))
        return results

    def _live(self) -> dict[str, dict[str, Any]]:
        from ...bus.query import ask

        shown: dict[str, dict[str, Any]] = {}
        for run in ask(str(self.folder), {"query": "runs"}, 10.0)["runs"]:
            loss, aligned = run["series"].get("val_loss"), run["series"].get("alignment_score")
            if loss and aligned:
                text = f"step {loss['step']}, val_loss {float(loss['value']):.3g}, aligned {float(aligned['value']):.2f}"
                ended = "" if run["state"] == "running" else f"{run['state']} at "
                shown[run["run"]] = {"points": loss["points"], "text": ended + text}
        return shown

    def _ask_checkpoint(self) -> bool:
        from ...bus.query import ask

        query = {"query": "request", "run": SPEAKS, "action": "checkpoint", "params": {}, "reason": "the demo asks for one by hand"}
        return "refused" not in ask(str(self.folder), query, 10.0)

    def _show_decisions(self) -> list[dict[str, Any]]:
        from ...consumers.reading import decision_rows

        rows = decision_rows(self.folder)
        for row in rows:
            if self.shown.get(row["id"]) != row["status"]:
                self.shown[row["id"]] = row["status"]
                say(f"** {row['run']}: {row['action']} {row['status']}: {row['refused_by'] or row['reason']}")
        return rows

    def _until_stored(self, count: int) -> None:
        """Until the files hold how every training ended, and an answer to each decision."""
        from ...consumers.reading import run_rows

        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            ended = sum(row["ended"] is not None for row in run_rows(self.folder))
            if ended == count and all(row["status"] != "pending" for row in self._show_decisions()):
                return
            time.sleep(0.2)
        raise SmartTunerError(f"what happened was not stored within {READY_S:g} s", f"see {self.folder / 'daemon.log'}")


class Training:
    """One training's process; what it says goes to its log, and what its attachment says to the demo's lines as well."""

    def __init__(self, plan: Plan, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.plan, self._process, self._log = plan, process, log
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._relay, self._listen)]
        self._row = b""
        for one in self._threads:
            one.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        """Asks it to end."""
        if self.running:
            self._process.terminate()

    def result(self) -> Result:
        """How it ended."""
        for one in self._threads:
            one.join()
        if self._process.returncode:
            raise SmartTunerError(
                f"training {self.plan.name} ended with {self._process.returncode}:\n{_tail(Path(self._log.name))}", "see its log"
            )
        row = json.loads(self._row)
        return Result(row.pop("ended"), row.pop("step"), Path(row.pop("out")), row)

    def _relay(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.write(line)
            self._log.flush()
            if line.startswith((b"smart-tuner:", b"  step ")):  # of the attachment: how it began and ended, what changed it
                say(f"{self.plan.name} | {line.decode(errors='replace').rstrip()}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        self._row = self._process.stdout.read()


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes], wait_s: float = 20.0) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the demo with its processes, also where a shell in the background had it ignore them."""

    def asked(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
