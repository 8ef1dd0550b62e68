"""A small real training that becomes best in the middle and worse from then on: overfitting_job.py NAME FOLDER OPTIONS.

At step `wait_at` it waits for FOLDER/go.
FOLDER/evaluations gets a line an evaluation (step, val_loss, a hash of all weights), FOLDER/runs one at the end.
"""

import hashlib
import json
import os
import sys
import time

import smarttuner
import torch

name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def note(where, **fields):
    with open(os.path.join(folder, where), "a") as file:
        file.write(json.dumps(fields) + "\n")


def weights_hash():
    found = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        found.update(key.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


torch.manual_seed(4)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.004)
inputs, noise = torch.randn(24, 8), torch.randn(24, 1)  # few examples and much noise: it is learned by heart
labels = inputs[:, :1] + 1.0 * noise
val_inputs = torch.randn(256, 8)
val_labels = val_inputs[:, :1]
run = smarttuner.attach(name, model=model, optimizer=optimizer, monitor="val_loss", goal="min")
for step in range(options["steps"]):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), labels).backward()
    optimizer.step()
    if run.should_stop:
        break
    with torch.no_grad():
        val_loss = torch.nn.functional.mse_loss(model(val_inputs), val_labels)
    note("evaluations", step=step, val_loss=float(val_loss), weights=weights_hash())
    run.log({"val_loss": val_loss}, step=step)
    while step == options["wait_at"] and not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.01)
    time.sleep(options["pause_s"])
note("runs", run=name, weights=weights_hash(), pruned=run.should_stop)
run.finish()
