"""What fails of ours, or is done to the process, at step AT of a training (FAULTS: `strike(step, run, parts, stack)`) or from its
start on (FROM_THE_START: called with the stack alone). The stack puts back what was changed."""

import errno
import gc
import os
import pickle
import signal
import threading
from unittest import mock

import smarttuner
from smarttuner.bus.spool import Spool
from smarttuner.core.clock import SystemClock
from smarttuner.trainer.attachment import Attachment
from smarttuner.trainer.control import Control
from smarttuner.trainer.keep_best import KeepBest
from smarttuner.trainer.lr import Steering

AT = 4


def fail(*_args, **_more):
    raise OSError(errno.ENOSPC, "something of ours fails")


def breaking(*where):
    """What is named fails from step AT on."""

    def strike(step, run, parts, stack):
        if step == AT:
            stack.enter_context(mock.patch.object(*where, fail))

    return strike


def at_once(act):
    """`act(run, parts)` at step AT."""

    def strike(step, run, parts, stack):
        if step == AT:
            act(run, parts)

    return strike


def fork(run, parts):
    child = os.fork()
    if child == 0:
        run.log({"child": 1.0})
        run.finish()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def copied(run, parts):
    worker = pickle.loads(pickle.dumps(run))  # what a spawned worker gets
    worker.log({"worker": 1.0})
    worker.finish()


def threads(run, parts):
    made = [threading.Thread(target=lambda: [run.log({"thread": 1.0}) for _ in range(50)]) for _ in range(3)]
    for one in made:
        one.start()
    for one in made:
        one.join()


def signals(step, run, parts, stack):
    """A timer's handler logs in the middle of whatever the training does (ITIMER_REAL is pytest-timeout's)."""
    if step == 0:
        signal.signal(signal.SIGVTALRM, lambda *_: run.log({"signal": 1.0}))
        stack.callback(signal.signal, signal.SIGVTALRM, signal.SIG_IGN)  # one may be under way, and would end the process
        stack.callback(signal.setitimer, signal.ITIMER_VIRTUAL, 0.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 1e-3, 1e-3)


def again(run, parts):
    second = smarttuner.attach("again", mode=run.mode, monitor="loss", goal="min", **parts)
    second.log({"loss": 1.0})
    HELD.append(second)


def given_again(run, parts):
    run.steer(**parts)


def cell_run_again(run, parts):
    """As a notebook does: the steps begin anew, and the old handle is dropped without a word."""
    run.log({"loss": 1.0}, step=0)
    HELD.append(smarttuner.attach("r", mode=run.mode, **parts))
    gc.collect()


def full(run, parts):
    """The ring is full, and nobody reads it."""
    if run._line is None:  # a rank that has none
        return
    spool = run._line.spool
    while spool.log(0, {"filler": 1.0}, 0.0):
        pass
    assert spool.dropped


def no_disk(stack):
    stack.enter_context(mock.patch.object(os, "posix_fallocate", fail))


def no_folder(stack):
    path = os.path.join(os.environ["XDG_STATE_HOME"], "smart-tuner")
    with open(path, "w"):
        pass


def orders_fail(step, run, parts, stack):
    """What is decided comes while the effect cannot be had."""
    if step == AT and run._line is not None:
        stack.enter_context(mock.patch.object(Control, "look", fail))
        run._line.control.calm.expected = -1


HELD = []
FROM_THE_START = {"no disk": no_disk, "no folder": no_folder}
FAULTS = {
    "nothing": lambda step, run, parts, stack: None,
    "a fork": at_once(fork),
    "a copy in a worker": at_once(copied),
    "threads": at_once(threads),
    "signals": signals,
    "attached twice": at_once(again),
    "the optimizer given again": at_once(given_again),
    "a cell run again": at_once(cell_run_again),
    "ended on the way": at_once(lambda run, parts: run.end("failed", "on the way")),
    "a full ring": at_once(full),
    "log fails": breaking(Spool, "log"),
    "events fail": breaking(Spool, "event"),
    "the hook before fails": breaking(Steering, "frame"),
    "the hook behind fails": breaking(Steering, "calm"),
    "the boundary fails": orders_fail,
    "keeping the best fails": breaking(KeepBest, "offer"),
    "the clock fails": breaking(SystemClock, "monotonic"),
    "the end fails": breaking(Attachment, "_leave"),
}
