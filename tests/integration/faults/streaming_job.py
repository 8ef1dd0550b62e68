"""A job without torch that streams values known in advance: streaming_job.py NAME FOLDER OPTIONS.

FOLDER/count holds how many log() calls have returned, FOLDER/decisions and FOLDER/checkpoints get a line for each decision
that was answered and each checkpoint that was made; FOLDER/end tells it to end. OPTIONS (JSON): pause_s between two calls;
steps after which it ends by itself; runs: after a prune it begins again under the next name, NAME-0, NAME-1, …; descent:
val_loss is logged at every fifth step and falls for so many evaluations, then it stands still; attach: what attach() is given;
it hangs while there is FOLDER/hang; torch: an optimizer of torch steps before each call, so there is a rate to change.
"""

import json
import mmap
import os
import sys
import time

import smarttuner

name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pause_s, steps = options.get("pause_s", 0.002), options.get("steps", 10**9)
with open(os.path.join(folder, "count"), "wb+") as file:
    file.truncate(4096)
    count = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")


def note(where, **fields):
    fd = os.open(os.path.join(folder, where), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (json.dumps(fields) + "\n").encode())
    os.close(fd)


def told(one):
    note(
        "decisions", id=one.id, action=one.action, status=one.status, step=one.step, why=one.why, before=one.before, after=one.after
    )


def save(path):
    note("checkpoints", path=str(path))
    with open(path, "w") as file:
        file.write("saved")


model = optimizer = None
if options.get("torch"):
    import torch

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)


def train(run_name):
    """One run; whether it was told to stop."""
    parts = {"model": model, "optimizer": optimizer, "checkpoint": save}
    run = smarttuner.attach(run_name, on_decision=told, **parts, **options.get("attach", {}))
    step = count[0] = 0
    while step < steps and not run.should_stop and not os.path.exists(os.path.join(folder, "end")):
        if optimizer is not None:
            optimizer.step()
        run.log({"x": step * 8.0, "y": step * 8.0 + 1.0, "z": step * 8.0 + 2.0}, step=step)
        step += 1
        count[0] = step
        if "descent" in options and step % 5 == 0:
            run.log({"val_loss": max(1.0, 1.0 + options["descent"] - step // 5)}, step=step)
        time.sleep(pause_s)
        while os.path.exists(os.path.join(folder, "hang")):
            time.sleep(0.1)
    run.finish()
    note("runs", run=run_name, attempt=run.attempt, logged=step, pruned=run.should_stop, failures=run.failures)
    return run.should_stop


number = 0
while train(f"{name}-{number}" if options.get("runs") else name) and options.get("runs"):
    number += 1
