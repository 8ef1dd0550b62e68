"""A loop on a host without a daemon: direct_job.py RUN NOTES STEPS [torch] [leaves]. With torch it is a real one; with leaves
it ends without finish(), and what is left is shipped at the interpreter's end. NOTES/count holds how many log() calls have
returned, NOTES/end tells it to end, NOTES/decisions gets a line for each decision that was answered."""

import json
import mmap
import pathlib
import sys
import time

import smarttuner

run_name, notes, steps = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
with (notes / "count").open("wb+") as file:
    file.truncate(4096)
    count = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")


def told(one):
    with (notes / "decisions").open("a") as file:
        file.write(json.dumps({"action": one.action, "status": one.status, "step": one.step}) + "\n")


model = optimizer = None
if "torch" in sys.argv[4:]:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
run = smarttuner.attach(run_name, optimizer=optimizer, model=model, on_decision=told)
step = 0
while step < steps and not run.should_stop and not (notes / "end").exists():
    if optimizer is not None:
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    run.log({"x": step * 8.0}, step=step)
    step += 1
    count[0] = step
    time.sleep(0.002)
if "leaves" in sys.argv[4:]:
    sys.exit(0)
run.finish()
