"""A small real training job for `smart-tuner demo`: a network learns a noisy teacher, from good and from bad settings.

Run by hand: python -m smarttuner.trainer.demo_job plateau --seconds 30
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attach import attach


@dataclass(frozen=True)
class Setting:
    """What one demo job starts from. `examples` is the size of its training set, `noise` the deviation of its labels."""

    lr: float
    examples: int
    noise: float
    width: int
    momentum: float = 0.9
    jumps_at: int | None = None
    allow: tuple[str, ...] = ("lr", "checkpoint", "restore", "prune")
    about: str = ""


SETTINGS = {
    "plateau": Setting(0.08, 4096, 0.3, 64, about="a learning rate that is too high to settle: it wants an LR change"),
    "overfit": Setting(0.01, 192, 0.6, 128, about="few and noisy examples: its best weights are early"),
    "diverge": Setting(
        0.02,
        2048,
        0.1,
        64,
        jumps_at=25,
        allow=("checkpoint", "restore", "prune"),
        about="a schedule with a slip: its learning rate jumps a hundredfold; nobody else may touch it",
    ),
}
BATCH = 64
STEPS_PER_EVALUATION = 20


def teacher(examples: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs (examples, 16) and labels (examples, 1): a fixed random network plus noise of that deviation."""
    fixed = torch.Generator().manual_seed(7)
    weights = [torch.randn(16, 32, generator=fixed) / 4, torch.randn(32, 1, generator=fixed) / 3]
    own = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 16, generator=own)
    labels = torch.tanh(inputs @ weights[0] * 2) @ weights[1]
    return inputs, labels + noise * torch.randn(labels.shape, generator=own)


def train(kind: str, evaluations: int, pause_s: float) -> None:
    """Trains until the evaluations are done or the run is told to stop. A pause after each evaluation keeps the demo
    watchable where the machine is fast."""
    setting = SETTINGS[kind]
    torch.manual_seed(1)
    torch.set_num_threads(1)
    inputs, labels = teacher(setting.examples, setting.noise, seed=11)
    val_inputs, val_labels = teacher(2048, 0.1, seed=12)
    model = nn.Sequential(
        nn.Linear(16, setting.width), nn.Tanh(), nn.Linear(setting.width, setting.width), nn.Tanh(), nn.Linear(setting.width, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum)
    jumps_at = evaluations if setting.jumps_at is None else setting.jumps_at
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda evaluation: 100.0 if evaluation >= jumps_at else 1.0)
    total = evaluations * STEPS_PER_EVALUATION
    run = attach(
        kind,
        optimizer=optimizer,
        model=model,
        monitor="val_loss",
        goal="min",
        total_steps=total,
        group="demo",
        config=vars(setting),
        allow=setting.allow,
    )
    step = 0
    with run:
        for _ in range(evaluations):
            for _ in range(STEPS_PER_EVALUATION):
                chosen = torch.randint(0, setting.examples, (BATCH,))
                loss = nn.functional.mse_loss(model(inputs[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            scheduler.step()
            with torch.no_grad():
                val_loss = nn.functional.mse_loss(model(val_inputs), val_labels)
            run.log({"train_loss": loss, "val_loss": val_loss}, step=step)
            if run.should_stop:
                print(f"{kind}: stopped at step {step} of {total}: {run.stop_reason}", flush=True)
                break
            if pause_s:
                time.sleep(pause_s)


def main() -> None:
    """The command line of one demo job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(SETTINGS))
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS", help="after each evaluation")
    arguments = parser.parse_args()
    train(arguments.kind, arguments.evaluations, arguments.pause)


if __name__ == "__main__":
    main()
