"""Orders on the control page and what the job answers, without torch: the loop's boundary is log() itself."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import msgspec
import pytest
from smarttuner.bus.control_page import LR_ACTIONS
from smarttuner.core.standing import PERMISSION


@pytest.fixture
def saver():
    class Saver:
        def __init__(self):
            self.saved, self.loaded, self.trouble = [], [], None

        def save(self, path):
            if self.trouble:
                raise self.trouble
            with open(path, "w") as file:
                file.write("weights")
            self.saved.append(path)

        def load(self, path):
            self.loaded.append(pathlib.Path(path).read_text())

    return Saver()


def test_a_prune_ends_the_loop_with_its_reason_and_the_run_is_pruned(attach, capsys):
    run = attach()
    for step in range(100):
        run.log({"loss": 1.0}, step=step)
        if step == 7:
            run.host.order("prune", "p1")
        if run.should_stop:
            break
    assert step == 8
    assert run.stop_reason == "because of prune"
    run.finish()
    (ack,) = run.host.read().acks
    assert (ack.id, ack.status, ack.step, ack.attempt) == ("p1", "applied", 8, run.attempt)
    assert (run.host.runs[-1].state, run.host.runs[-1].ended_by) == ("pruned", "because of prune")
    assert "step 8: prune: because of prune" in capsys.readouterr().err


def test_what_is_not_to_be_done_is_answered_with_the_reason_and_changes_nothing(attach, saver):
    run = attach(checkpoint=saver.save, allow=("lr", "prune"))
    host = run.host
    late = host.order("prune", not_after=1.0)
    strange, forbidden, best = host.order("reboot"), host.order("checkpoint"), host.order("keep-best", series="a", goal="min")
    rate = host.order("scale-lr", intent={"multiplier": 0.5, "hold": None, "revision": 1})
    run.log({"a": 1.0}, step=5)
    assert host.answers() == {
        late: ("expired", "the job came to it too late"),
        strange: ("refused", "unknown action"),
        forbidden: ("refused", "the job does not allow checkpoint"),
        best: ("refused", "the job does not allow restore"),
        rate: ("refused", "no optimizer was given (pass optimizer= to attach, or to run.steer later)"),
    }
    assert not run.should_stop
    assert not saver.saved
    assert {ack.step for ack in host.acks} == {5}


def test_a_job_that_observes_refuses_everything(attach):
    run = attach(mode="observe")
    order = run.host.order("prune")
    run.step()
    assert run.host.answers() == {order: ("refused", "the job was attached with mode=observe")}
    assert not run.should_stop


def test_every_action_that_the_daemon_may_send_has_a_permission():
    from smarttuner.trainer.control import IN_THIS_ORDER

    assert set(IN_THIS_ORDER) == set(PERMISSION)
    assert set(LR_ACTIONS) < set(IN_THIS_ORDER)


def test_one_boundary_applies_all_that_is_there_in_the_order_that_lets_each_take_effect(attach, saver):
    seen = []
    run = attach(checkpoint=saver.save, restore=saver.load, on_decision=seen.append)
    for action in ("prune", "restore", "checkpoint"):
        run.host.order(action, **({"which": "last"} if action == "restore" else {}))
    run.log({"a": 1.0}, step=3)
    assert [(one.action, one.status, one.step) for one in seen] == [
        ("checkpoint", "applied", 3),
        ("restore", "applied", 3),
        ("prune", "applied", 3),
    ]
    assert saver.loaded == ["weights"]
    assert (seen[1].before, seen[1].after) == (3, 3)
    assert seen[0].reason == "because of checkpoint"
    assert [one.event for one in run.host.read().runs] == ["started", "restored"]
    run.log({"a": 1.0}, step=1)  # after a restore the steps may begin again
    assert run._intake.repeated == 0


def test_the_jobs_own_functions_may_fail_and_the_answer_says_how(attach, saver, capsys):
    def callback(answered):
        raise RuntimeError("callback")

    run = attach(checkpoint=saver.save, on_decision=callback)
    saver.trouble = ValueError("cannot pickle\na lambda")
    failed, missing = run.host.order("checkpoint"), run.host.order("restore", which=77)
    run.step(4)
    answers = run.host.answers()
    assert answers[failed] == ("failed", "ValueError: cannot pickle a lambda")
    assert answers[missing][0] == "failed"
    assert "none has been saved" in answers[missing][1]
    assert capsys.readouterr().err.count("on_decision raised RuntimeError: callback") == 1


def test_a_prune_whose_restore_fails_still_ends_the_run_and_says_so(attach):
    run = attach()
    order = run.host.order("prune", restore="best")
    run.log({"a": 1.0})
    status, why = run.host.answers()[order]
    assert status == "applied"
    assert why.startswith("weights not restored: no best weights are kept yet")
    assert run.should_stop


def test_a_prune_ends_the_run_though_the_jobs_own_restore_fails_without_a_word(attach, saver, tmp_path):
    def restore(path):
        raise ValueError

    run = attach(checkpoint=saver.save, restore=restore)
    run.host.order("checkpoint")
    run.log({"a": 1.0})
    order = run.host.order("prune", restore="last")
    run.log({"a": 1.0})
    assert run.host.answers()[order] == ("applied", "weights not restored: ValueError")
    assert run.should_stop


def test_an_order_is_applied_once_however_often_the_page_is_read(attach, saver):
    run = attach(checkpoint=saver.save)
    run.host.order("checkpoint", "same")
    run.log({"a": 1.0})
    run._line.control._spool.page._answered.clear()  # a daemon that knows nothing any more places it again
    run._line.control._seen = run._line.control.calm.expected = -1
    slot = run.host.page.place(msgspec.structs.replace(_order("same"), reason="again"), 0.0)
    run.log({"a": 1.0})
    assert slot.slot >= 0
    assert len(saver.saved) == 1
    assert {ack.status for ack in run.host.read().acks} == {"applied"}


def _order(order_id):
    from smarttuner.bus.control_page import Order

    return Order(order_id, "checkpoint", {}, 4e9)


@pytest.mark.parametrize("every", [1, 2, 100])
def test_an_order_is_found_at_the_next_boundary_however_often_the_job_logs(every, attach):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    run = attach(optimizer=optimizer)
    for number in range(1, 7):
        order = run.host.order("scale-lr", intent={"multiplier": 0.5, "hold": None, "revision": number})
        optimizer.step()
        assert run.host.answers()[order] == ("applied", "")
        if number % every == 0:
            run.log({"a": 1.0}, step=number)
    assert run._calm.steps == 5
    assert run._where() == (5 if every == 100 else 6)


def test_a_callback_that_logs_does_not_begin_another_boundary(attach):
    def callback(answered):
        run.log({"inside": 1.0}, step=50)
        run.step()

    run = attach(on_decision=callback)
    run.host.order("prune")
    run.log({"a": 1.0}, step=1)
    assert len(run.host.read().acks) == 1


def test_an_interrupt_before_anything_is_done_leaves_the_boundary_to_the_next(attach):
    run = attach()
    run.log({"a": 1.0}, step=0)
    run.host.order("prune", "p1")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run._line.control.look(interrupted)
    run.log({"a": 1.0}, step=1)
    assert run.host.answers() == {"p1": ("applied", "")}


def test_acks_that_find_no_room_are_said_later_and_keep_their_slot(attach):
    run = attach()
    order = run.host.order("prune")
    spool = run._line.spool
    while spool.event(b"{" + b" " * 8000 + b"}"):
        pass
    while spool.event(b"{}"):
        pass
    run.log({"a": 1.0}, step=1)
    assert run.should_stop
    run.log({"a": 1.0}, step=2)
    assert run.host.answers() == {}
    run.host.shipper.reader.commit(run.host.shipper.reader.position)
    run.log({"a": 1.0}, step=3)
    (ack,) = run.host.read().acks
    assert (ack.id, ack.status, ack.step) == (order, "applied", 1)


def test_without_a_journal_one_shots_are_refused(attach, state, capsys):
    (state / "spool").mkdir(parents=True)
    from smarttuner.trainer import journal

    room, journal.ROOM_BYTES = journal.ROOM_BYTES, 1 << 60  # more than any disk has
    try:
        run = attach()
    finally:
        journal.ROOM_BYTES = room
    order = run.host.order("prune")
    run.log({"a": 1.0})
    status, why = run.host.answers()[order]
    assert (status, run.should_stop) == ("refused", False)
    assert "could not be journaled" in why
    assert "will be refused" in capsys.readouterr().err


INTERRUPTED = """
import os, signal, sys, smarttuner
from smarttuner.bus.control_page import Order, PageWriter
def save(path):
    open(path, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
run = smarttuner.attach("r", checkpoint=save)
page = PageWriter(os.open(run._line.spool.path, os.O_RDWR))
page.place(Order("cut", "checkpoint", {}, 4e9), 0.0)
print(run.attempt, flush=True)
run.log({"a": 1.0}, step=4)
"""


def test_a_checkpoint_cut_short_by_a_kill_is_answered_interrupted_by_the_next_attempt_and_not_repeated(
    attach, state, capsys, saver
):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    first = done.stdout.strip()
    run = attach("r", checkpoint=saver.save, resume_from_step=4)
    assert "decision cut of attempt " + first + " is answered failed: interrupted" in capsys.readouterr().err
    run.log({"a": 1.0}, step=5)
    assert not saver.saved
    assert run.host.read().runs[0].started.parent == first
    bodies = [json.loads(body) for body in _bodies(run)]
    (ack,) = [body for body in bodies if body["kind"] == "ack"]
    assert (ack["id"], ack["attempt"], ack["status"], ack["reason"], ack["step"]) == ("cut", first, "failed", "interrupted", 4)
    assert run._line.control.effects.checkpoints.listing() == []
    again = attach("r")
    assert not [body for body in map(json.loads, _bodies(again)) if body["kind"] == "ack"]


def test_a_journal_of_a_process_that_lives_is_left_alone(attach):
    first = attach("r")
    first._line.journal.begin("open", "checkpoint", {}, 1, 1.0)
    second = attach("r")
    assert not [body for body in map(json.loads, _bodies(second)) if body["kind"] == "ack"]


def _bodies(run):
    from smarttuner.bus.spool_reader import Body, SpoolReader

    reader = SpoolReader(os.open(run._line.spool.path, os.O_RDWR), 0)
    return [one.body for one in reader.read(0.0) if isinstance(one, Body)]


def test_the_parent_is_whose_checkpoint_the_step_is_else_the_runs_last_attempt(attach, saver):
    first = attach("r", checkpoint=saver.save)
    first.host.order("checkpoint")
    first.log({"a": 1.0}, step=9)
    second = attach("r")
    assert second.host.read().runs[0].started.parent is None
    assert attach("r", resume_from_step=9).host.read().runs[0].started.parent == first.attempt
    third = attach("r", resume_from_step=11)
    assert third.host.read().runs[0].started.parent != first.attempt
