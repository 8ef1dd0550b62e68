"""A job that learns until it is told to stand still: scoped_job.py NAME FOLDER OPTIONS.

OPTIONS (JSON): series: what it logs, at each step, beside `x`; attach: what attach() is given; then: the value that it logs from
the moment on at which FOLDER/still is there (the last one if none is given). FOLDER/count, FOLDER/runs and FOLDER/end as in
streaming_job.py.
"""

import json
import mmap
import os
import sys
import time

import smarttuner

name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with open(os.path.join(folder, "count"), "wb+") as file:
    file.truncate(4096)
    count = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")

run = smarttuner.attach(name, **options.get("attach", {}))
step, still, value = 0, False, 100.0
while not run.should_stop and not os.path.exists(os.path.join(folder, "end")):
    still = still or os.path.exists(os.path.join(folder, "still"))
    if not still:
        value = 1.0 + 99.0 * 0.999**step
    run.log({"x": step, options["series"]: options.get("then", value) if still else value}, step=step)
    step += 1
    count[0] = step
    time.sleep(0.02)
run.finish()
with open(os.path.join(folder, "runs"), "w") as file:
    file.write(json.dumps({"logged": step, "pruned": run.should_stop, "why": run.stop_reason}) + "\n")
