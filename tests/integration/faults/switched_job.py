"""A job whose val_loss falls until FOLDER/stuck exists and stands still from then on: switched_job.py NAME FOLDER OPTIONS.

OPTIONS (JSON): attach: what attach() is given; pause_s between two evaluations. FOLDER/end tells it to end; FOLDER/runs gets a
line an attempt, FOLDER/decisions one for each decision that was answered. After a prune it begins the next attempt of the
same run as soon as FOLDER/again exists.
"""

import json
import os
import sys
import time

import smarttuner

name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def there(what):
    return os.path.exists(os.path.join(folder, what))


def note(where, **fields):
    with open(os.path.join(folder, where), "a") as file:
        file.write(json.dumps(fields) + "\n")


def told(one):
    note("decisions", id=one.id, action=one.action, status=one.status, step=one.step, why=one.why)


def save(path):
    with open(path, "w") as file:
        file.write("saved")


def train():
    run = smarttuner.attach(name, on_decision=told, checkpoint=save, **options["attach"])
    step, loss = 0, 1e6
    while not run.should_stop and not there("end"):
        loss -= 0.0 if there("stuck") else 1.0
        run.log({"val_loss": loss}, step=step)
        step += 1
        time.sleep(options.get("pause_s", 0.01))
    run.finish()
    note("runs", run=name, attempt=run.attempt, pruned=run.should_stop, reason=run.stop_reason)
    return run.should_stop


while train():
    while not there("again") and not there("end"):
        time.sleep(0.02)
