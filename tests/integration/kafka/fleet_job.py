"""Many runs without torch from one process, each in a thread: fleet_job.py NAME FOLDER OPTIONS.

A run logs x, y, z at every step, and at every fifth val_loss, which falls for `descent` evaluations and then stands still: a
patience that the job states prunes it at a step known in advance. Where it is pruned it begins anew under the next name:
NAME-3.0, NAME-3.1, …

FOLDER/runs gets a line for each attempt that ended, FOLDER/decisions one for each decision that was answered,
FOLDER/checkpoints one for each checkpoint that was made; FOLDER/end tells all to end. OPTIONS (JSON): runs, pause_s between
two calls of log of one run, descent, patience, and steady: so many of the runs never stop by themselves.
"""

import json
import os
import sys
import threading

import smarttuner

name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
descent, patience, pause_s = options["descent"], options["patience"], options["pause_s"]
ending = threading.Event()


def note(where, **fields):
    fd = os.open(os.path.join(folder, where), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (json.dumps(fields) + "\n").encode())
    os.close(fd)


def told(run_name):
    def tell(one):
        note("decisions", id=one.id, run=run_name, action=one.action, status=one.status, step=one.step, why=one.why)

    return tell


def save(path):
    note("checkpoints", path=str(path))
    with open(path, "w") as file:
        file.write("saved")


def train(run_name, steady):
    """One run; whether it was told to stop."""
    stated = {"patience": {"patience": 10**6 if steady else patience, "min_delta": 0.0}}
    said = {"monitor": "val_loss", "goal": "min", "policies": stated}
    run = smarttuner.attach(run_name, checkpoint=save, on_decision=told(run_name), **said)
    step = 0
    while not run.should_stop and not ending.is_set():
        run.log({"x": step * 8.0, "y": step * 8.0 + 1.0, "z": step * 8.0 + 2.0}, step=step)
        step += 1
        if step % 5 == 0:
            run.log({"val_loss": max(1.0, 1.0 + descent - step // 5)}, step=step)
        ending.wait(pause_s)
    run.finish()
    note("runs", run=run_name, attempt=run.attempt, logged=step, pruned=run.should_stop, failures=run.failures)
    return run.should_stop


def again_and_again(number):
    ending.wait(pause_s * number / options["runs"])
    life = 0
    while train(f"{name}-{number}.{life}", number < options.get("steady", 0)):
        life += 1


threads = [threading.Thread(target=again_and_again, args=(n,)) for n in range(options["runs"])]
for thread in threads:
    thread.start()
while not os.path.exists(os.path.join(folder, "end")):
    ending.wait(0.1)
ending.set()
for thread in threads:
    thread.join()
