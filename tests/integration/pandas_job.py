"""A job for docs/pandas.md: pandas_job.py NAME FOLDER OPTIONS. Its val_loss falls the faster the greater its learning rate.

OPTIONS (JSON): lr; first, the first step; steps; changes: it has an optimizer of torch (which takes seconds to import) and
waits for so many decisions before it counts its steps; attach: what attach() is given. FOLDER/running: it has logged.
"""

import json
import pathlib
import sys
import time

import smarttuner

name, folder, options = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
optimizer, told, wanted = None, [], options.get("changes", 0)
if wanted:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options["lr"])
step = options.get("first", 0)
end = step + options["steps"]
with smarttuner.attach(
    name,
    optimizer=optimizer,
    monitor="val_loss",
    goal="min",
    group="sweep",
    config={"lr": options["lr"], "model": {"width": 1}},
    on_decision=told.append,
    **options.get("attach", {}),
) as run:
    while step < end:
        if optimizer is not None:
            optimizer.step()
        loss = 1.0 / (1.0 + step * options["lr"])
        run.log({"train_loss": loss, "val_loss": loss + 1.0}, step=step)
        (folder / "running").touch()
        waits = len(told) < wanted
        step, end = step + 1, end + waits
        time.sleep(0.05 if waits else 0.0)
