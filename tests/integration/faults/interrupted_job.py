"""A job whose first checkpoint kills it (argv: name, folder of notes, options as JSON)."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import smarttuner

name, notes, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])


def save(path):
    with (notes / "checkpoints").open("a") as file:
        file.write(json.dumps({"path": path}) + "\n")
    Path(path).write_text("half of the wei")
    if options["dies"]:
        os.kill(os.getpid(), signal.SIGKILL)


run = smarttuner.attach(options["run"], checkpoint=save, group=options["group"])
for step in range(100_000):
    run.log({"x": float(step)}, step=step)
    (notes / "count").write_bytes((step + 1).to_bytes(8, sys.byteorder))
    if (notes / "end").exists():
        break
    time.sleep(0.005)
run.finish()
