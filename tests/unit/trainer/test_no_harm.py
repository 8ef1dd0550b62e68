"""What a job does besides training goes on as if nobody watched: signals, workers, threads, copies of what it holds."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import pytest

SIGNALS = {
    "its own handler ends it": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n{attach}\nos.kill(os.getpid(), signal.SIGTERM)\n",
        7,
        ("failed", "exit code 7"),
    ),
    "its own handler, set later, goes on": (
        "{attach}\nsignal.signal(signal.SIGTERM, lambda *_: said.append(1))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nassert said == [1]\nrun.log({{'after': 1.0}})\n",
        0,
        ("finished", None),
    ),
    "it takes a Ctrl-C and goes on": (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who is started in the background ignores it
        "{attach}\ntry:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(30); sys.exit('it was not interrupted')\n"
        "except KeyboardInterrupt: run.log({{'after': 1.0}})\n",
        0,
        ("finished", None),
    ),
    "nobody takes the SIGTERM": ("{attach}\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)\n", -15, None),
}


@pytest.mark.parametrize("case", SIGNALS)
def test_signals_are_the_jobs_own(case, state, host_of):
    code, status, ended = SIGNALS[case]
    attach = (
        "before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]\n"
        "run = smarttuner.attach('r'); run.log({'a': 1.0})\n"
        "assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]"
    )
    script = "import os, signal, sys, time, smarttuner\nsaid = []\n" + code.format(attach=attach)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    (path,) = (state / "spool").glob("*.spool")
    host = host_of(path).read()
    assert {row[0] for row in host.points} <= {"a", "after"}
    assert [(one.state, one.ended_by) for one in host.runs[1:]] == ([] if ended is None else [ended])


def _use(run):
    run.log({"from_worker": 1.0})
    run.finish()
    os._exit(0 if (run.mode, run.should_stop) == ("disabled", False) else 1)


def test_a_spawned_worker_gets_a_handle_that_does_nothing(attach, capfd):
    run = attach()
    worker = multiprocessing.get_context("spawn").Process(target=_use, args=(run,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0, capfd.readouterr().err
    run.log({"a": 1.0})
    assert {row[0] for row in run.host.read().points} == {"a"}
    assert [one.event for one in run.host.runs] == ["started"]


def test_copies_are_inert_and_name_the_same_run(attach):
    run = attach("named")
    for copied in (copy.copy(run), copy.deepcopy({"held": run})["held"], pickle.loads(pickle.dumps(run))):
        copied.log({"copy": 1.0})
        copied.finish()
        assert (copied.run, copied.attempt, copied.mode) == (run.run, run.attempt, "disabled")
    run.log({"a": 1.0})
    assert {row[0] for row in run.host.read().points} == {"a"}


def test_a_spawned_worker_may_still_be_told_to_exit(attach):
    attach()
    worker = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(3,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 3


def test_threads_may_log_at_once(attach):
    run = attach()
    threads = [
        threading.Thread(target=lambda name=name: [run.log({name: float(i)}, step=i) for i in range(500)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = run.host.read().points
    for name in "abcd":
        assert [(step, value) for series, step, value in points if series == name] == [(i, float(i)) for i in range(500)]


def test_a_job_attached_twice_is_two_runs_that_end_apart(attach):
    first, second = attach("one"), attach("one")
    assert first.attempt != second.attempt
    first.finish()
    second.log({"a": 1.0})
    assert second.host.read().points == [("a", 0, 1.0)]
    assert [one.state for one in first.host.read().runs[1:]] == ["finished"]


def test_a_folder_that_cannot_be_written_stops_nothing(attach, state, monkeypatch, capsys):
    state.parent.mkdir(exist_ok=True)
    state.write_text("a file stands where the folder would")
    with attach() as run:
        for step in range(3):
            run.log({"a": 1.0}, step=step)
    said = capsys.readouterr().err
    assert said.count("the training goes on without") == 1


def test_a_print_of_the_jobs_own_is_not_called(attach, monkeypatch, capsys):
    plain = print

    def stamped(*given, **more):  # as MAE and what came of it have it: a time stamp on stdout goes before every line
        plain("[12:00] ", end="")
        plain(*given, **more)

    monkeypatch.setattr("builtins.print", stamped)
    attach("told on stderr").finish()
    out, err = capsys.readouterr()
    assert out == ""
    assert "run told-on-stderr finished" in err


def test_without_a_stderr_nothing_is_said_on_stdout(attach, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)  # the interpreter's own, where `2>&-` closed it
    attach("nobody hears").finish()
    assert capsys.readouterr().out == ""
