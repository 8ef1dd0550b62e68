"""What a job gets from attach() before any daemon has a say: names, places, values, steps, the end."""

import argparse
import decimal
import os
import subprocess
import sys

import numpy
import pytest
import smarttuner
from smarttuner.core.events import RUN_NAME


def test_what_is_logged_without_a_daemon_is_in_the_spool_whole_and_in_order(attach, capsys):
    run = attach("lab/r.1", monitor="val_loss", goal="min", group="g", tags={"who": "me"}, config=argparse.Namespace(lr=0.1))
    for step in range(500):
        run.log({"loss": 1 / (step + 1), "acc": float(step)}, step=step)
    path = run._line.spool.path
    host = run.host
    run.finish()
    said = capsys.readouterr().err
    assert said.count("no daemon listens") == 1
    assert "smart-tuner daemon" in said
    assert f"what it logged waits in {path}" in said
    host.read()
    assert host.points == [row for s in range(500) for row in (("loss", s, 1 / (s + 1)), ("acc", s, float(s)))]
    started, ended = host.runs
    assert (started.event, started.group, started.started.monitor, started.started.goal) == ("started", "g", "val_loss", "min")
    assert (started.started.config, started.started.tags) == ({"lr": 0.1}, {"who": "me"})
    assert (started.started.pid, started.started.uid, started.started.keeps_best) == (os.getpid(), os.getuid(), False)
    assert (ended.event, ended.state) == ("ended", "finished")
    assert (started.seq, ended.seq) == (0, 1001)


def test_each_kind_of_number_is_taken_and_the_rest_is_dropped_with_one_warning_a_key(attach, capsys):
    class Odd:
        def item(self):
            raise RuntimeError("no")

    run = attach()
    for _ in range(2):
        run.log(
            {
                "int": 3,
                "bool": True,
                "f32": numpy.float32(0.5),
                "zero_d": numpy.array(2.5),
                "decimal": decimal.Decimal("1.5"),
                "nan": float("nan"),
                "inf": float("-inf"),
                "text": "0.5",
                "none": None,
                "many": numpy.zeros(3),
                "odd": Odd(),
                "huge": 10**400,
                7: 1.0,
                "": 1.0,
                "x" * 257: 1.0,
            }
        )
    run.log("not a dict")
    run.log({}, step=9)
    said = capsys.readouterr().err
    for name in ("text", "none", "many", "odd", "huge"):
        assert said.count(f"'{name}' is no number") == 1
    points = run.host.read().points
    assert [row[:2] for row in points if row[0] == "int"] == [("int", 0), ("int", 1)]
    assert {name: value for name, step, value in points if step == 0 and name not in ("nan", "inf")} == {
        "int": 3.0,
        "bool": 1.0,
        "f32": 0.5,
        "zero_d": 2.5,
        "decimal": 1.5,
        "7": 1.0,
    }
    assert {row[2] for row in points if row[0] in ("nan", "inf")} == {"NaN", "-Infinity"}
    assert run.failures == 1  # what has no values() at all
    run.failures = 0


def test_what_cannot_name_a_series_is_called_that_and_not_a_wrong_number(attach, capsys):
    run = attach()
    run.log({"": 1.0, "y" * 257: 1.0})
    said = capsys.readouterr().err
    assert said.count("is no name of 1 to 256 characters") == 2
    assert "no number" not in said
    assert "y" * 65 not in said
    run.log({"a": 1.0, 7: 2.0, "": 3.0})
    assert run.host.read().points == [("a", 1, 1.0), ("7", 1, 2.0)]
    assert run._line.spool.dropped == 0


@pytest.mark.parametrize(("argument", "given"), [("tags", ["a", "b"]), ("tags", "a"), ("policies", ["patience"])])
def test_what_is_no_dict_is_left_out_and_the_run_is_attached_all_the_same(attach, capsys, argument, given):
    run = attach(**{argument: given})
    run.log({"a": 1.0})
    assert len(run.host.read().points) == 1
    assert getattr(run.host.runs[0].started, argument) == {}
    assert f"{argument}= is a dict of names, not {type(given).__name__}: it is left out" in capsys.readouterr().err


def test_none_stands_for_an_argument_that_was_left_out(attach):
    run = attach(mode=None, allow=None)
    (started,) = run.host.read().runs
    assert (started.started.mode, len(started.started.allow)) == ("act", 4)


def test_steps_are_counted_where_they_are_left_out_and_taken_in_any_integral_form(attach, capsys):
    run = attach(resume_from_step=99)
    run.log({"a": 1.0})
    run.log({"a": 1.0}, step=numpy.int64(120))
    run.log({"a": 1.0}, step=130.0)
    run.log({"a": 1.0}, step="soon")
    run.log({"a": 1.0})
    assert [row[1] for row in run.host.read().points] == [100, 120, 130, 131, 132]
    assert "step='soon' is no whole number" in capsys.readouterr().err


def test_a_step_seen_again_is_stored_counted_and_told_once(attach, capsys):
    run = attach()
    for epoch in range(3):
        for step in range(4):
            run.log({"loss": 1.0}, step=step)
            run.log({"per_epoch": 1.0}, step=epoch * 4 + step)  # another axis: no repetition
    assert run._intake.repeated == 8
    run.finish()
    said = capsys.readouterr().err
    assert said.count("does not go on from 3") == 1
    assert "8 points came with a step seen before" in said
    assert len(run.host.read().points) == 24


def test_several_calls_at_one_step_and_axes_of_their_own_are_no_repetition(attach):
    run = attach()
    for step in range(50):
        run.log({"train": 1.0}, step=step)
        run.log({"val": 1.0}, step=step)
        if step % 10 == 9:
            run.log({"epoch_loss": 1.0}, step=step // 10)
    assert run._intake.repeated == 0


def test_disabled_opens_nothing(attach, state, monkeypatch, capsys):
    monkeypatch.setenv("SMART_TUNER_MODE", "disabled")
    code = (  # in a process where no other test's thread opens or closes anything meanwhile
        "import os, smarttuner\nsmarttuner.attach\nbefore = os.listdir('/proc/self/fd')\n"
        "run = smarttuner.attach(mode='act', monitor='a', goal='min'); run.log({'a': 1.0}); run.step()\n"
        "assert os.listdir('/proc/self/fd') == before; run.finish(); assert os.listdir('/proc/self/fd') == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with attach(mode="act", monitor="a", goal="min") as run:
        run.log({"a": 1.0})
        run.step()
        assert not run.should_stop
        assert run.stop_reason is None
    assert not state.exists()
    assert capsys.readouterr().err == ""
    assert run.mode == "disabled"


@pytest.mark.parametrize("name", ["../x", "a b", "-dash", "é", "x" * 300, 7, "", "a\n"])
def test_a_name_that_cannot_be_one_becomes_one_with_a_warning(name, attach, capsys):
    run = attach(name)
    assert RUN_NAME.fullmatch(run.run)
    assert "cannot be a run's name" in capsys.readouterr().err


def test_the_environment_names_the_run_and_a_name_left_out_is_the_scripts(attach, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/train me.py"])
    first, second = attach(None), attach(None)
    assert first.run.startswith("train-me-")
    assert first.run != second.run
    monkeypatch.setenv("SMART_TUNER_RUN", "given")
    assert attach("coded").run == "given"


def test_wrong_arguments_are_told_and_never_raised(attach, capsys):
    run = attach(mode="actt", allow=("lr", "stop"), goal="less", resume_from_step="x", best_interval_s=0)
    said = capsys.readouterr().err
    for word in ("mode 'actt'", "not 'stop'", "goal= is 'min' or 'max'", "resume_from_step='x'"):
        assert word in said
    started = run.host.read().runs[0].started
    assert (started.mode, started.allow, started.goal) == ("observe", ["lr"], None)
    broken = attach(optimizer="adam")
    assert "optimizer= got a str" in capsys.readouterr().err
    broken.log({"a": 1.0})
    attach(best_interval_s="soon")
    assert "is not attached" in capsys.readouterr().err


def test_a_config_that_is_too_large_or_holds_anything_at_all_is_told_as_text(attach, capsys):
    run = attach(config={"path": object, "deep": {"n": [1, numpy.float64(2.0), float("inf")]}, 5: 2**70}, tags={"t": {1}})
    started = run.host.read().runs[0].started
    assert started.config["deep"] == {"n": [1, 2.0, "Infinity"]}
    assert started.config["5"] == str(2**70)
    big = attach(config={"text": "x" * 100_000})
    assert big.host.read().runs[0].started.config == {}
    assert "are left out" in capsys.readouterr().err


def test_a_disk_without_room_is_said_once_and_the_training_goes_on(attach, state, monkeypatch, capsys):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with attach() as run:
        for step in range(10):
            run.log({"a": 1.0}, step=step)
    said = capsys.readouterr().err
    assert said.count("No space left") == 1
    assert "the training goes on without" in said
    assert not list((state / "spool").iterdir())


def test_only_rank_0_logs_and_no_other_says_a_word(attach, monkeypatch, state, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for mode in ("act", "observe"):
        with attach(mode=mode) as run:
            run.log({"a": 1.0})
            assert (run.mode, run.should_stop) == (mode, False)
    assert not state.exists()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert attach().host.read().runs[0].started.world_size == 2


def test_kafka_without_a_daemon_says_that_the_job_ships_by_itself(attach, capsys, monkeypatch):
    monkeypatch.setattr("smarttuner.trainer.direct.Direct.finish_wait_s", 0.0)
    monkeypatch.setattr("smarttuner.trainer.direct.CLOSE_S", 60.0)  # its thread ends with the test
    attach(bus="kafka://127.0.0.1:1")
    said = capsys.readouterr().err
    assert "-> kafka://127.0.0.1:1; no daemon listens in" in said
    assert "this process ships by itself, from" in said


def test_importing_is_light_and_the_public_names_are_found_late():
    code = (
        "import sys, smarttuner; assert not set(sys.modules) & {'torch', 'numpy', 'msgspec', 'socket'}\n"
        "assert {'attach', 'Attachment'} <= set(dir(smarttuner)); smarttuner.attach; smarttuner.Attachment\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pyarrow', 'pandas', 'yaml', 'typer', 'rich', 'asyncio'}\n"
        "assert not set(sys.modules) & heavy, set(sys.modules) & heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        smarttuner.nothing


MUTE = "class Mute(ValueError):\n  def __str__(self): raise RuntimeError\n"
SESSION = "import code; sys.ps1 = '>>> '; one = code.InteractiveInterpreter(globals()); "
ENDINGS = {
    "pass": ("finished", None),
    "sys.exit(0)": ("finished", None),
    "sys.exit(3)": ("failed", "exit code 3"),
    "sys.exit('no data')": ("failed", "exit code 1: no data"),
    "exit(3)": ("failed", "exit code 3"),
    "quit()": ("finished", None),
    "raise ValueError('bad batch')": ("failed", "ValueError: bad batch"),
    "raise KeyboardInterrupt": ("failed", "KeyboardInterrupt"),
    "try: sys.exit(3)\nexcept SystemExit: run.log({'a': 2.0})": ("finished", None),
    SESSION + "one.runsource('1 / 0')": ("failed", "ZeroDivisionError: division by zero"),
    SESSION + "one.runsource('1 / 0'); run.log({'a': 2.0})": ("finished", None),
    SESSION + "one.runsource('1 / 0'); quit()": ("finished", None),
    "with run: raise ValueError('inside')": ("failed", "ValueError: inside"),
    "with run: sys.exit(4)": ("failed", "exit code 4"),
    "with run: sys.exit()": ("finished", None),
    MUTE + "raise Mute": ("failed", "Mute: <its str() failed>"),
    MUTE + "try: sys.exit(Mute())\nexcept SystemExit: raise ValueError('as it was')": ("failed", "ValueError: as it was"),
    MUTE + "try:\n  with run: raise Mute\nexcept Mute: pass": ("failed", "Mute: <its str() failed>"),
    "if os.fork() == 0: run.log({'child': 1.0}); sys.exit(5)\nelse: os.wait()": ("finished", None),
    "os.kill(os.getpid(), 9)": (None, None),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_process_ended_is_told_without_finish(ending, state, host_of):
    code = "import os, sys, smarttuner\nrun = smarttuner.attach('r')\nrun.log({'a': 1.0})\n" + ending
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    (path,) = (state / "spool").glob("*.spool")
    host = host_of(path).read()
    assert {row[0] for row in host.points} == {"a"}
    expected = [] if ENDINGS[ending][0] is None else [ENDINGS[ending]]
    assert [(one.state, one.ended_by) for one in host.runs[1:]] == expected


def test_a_step_beyond_64_bits_is_said_and_the_steps_after_it_go_on(attach, capsys):
    run = attach()
    for step in (0, 1 << 70, 2, 3):
        run.log({"a": float(step)}, step=step)
    assert [step for _, step, _ in run.host.read().points] == [0, 1, 2, 3]
    assert run._intake.repeated == 0
    assert "no whole number of 64 bits" in capsys.readouterr().err
