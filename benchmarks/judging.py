"""Points folded, screened and judged per second by the shipped policies, against torch's ReduceLROnPlateau in a loop.

    .venv/bin/python benchmarks/judging.py [--points 200000] [--json]

Both see the same series in the same process; ours judges it with patience, plateau and divergence at once, the loop does
the plateau alone. A chunk of 1 or 5 points is what a live job sends, one of 1,000 is a backlog or a replay.
"""

import argparse
import json
import time

import numpy as np
import torch
from smarttuner.consumers import early_stop_controller, param_scheduler
from smarttuner.core.window import Subject, Window

RULES = [*early_stop_controller.rules({}), *param_scheduler.rules({})]


def series(points: int) -> list[float]:
    """A loss that falls by 0.03 % a point with noise of 0.1 %, and stands still for 100 points in each 10,000."""
    at = np.arange(points)
    fallen = at - at // 10_000 * 100 - (at % 10_000 - 9_900).clip(min=0)
    return (np.exp(-3e-4 * fallen) * np.random.default_rng(0).normal(1, 1e-3, points)).tolist()


def judged(values: list[float], chunk: int) -> tuple[float, int]:
    """Seconds to judge the series in chunks, and how many decisions: those of a row of points count once."""
    subject = Subject("run", "attempt", "val_loss")
    window = Window(subject, [one for rule in RULES for one in rule.policy.measures(subject)])
    decisions, after = 0, [0] * len(RULES)
    started = time.perf_counter()
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk]
        at = range(start, start + len(part))
        columns = window.extend("sdk", at, (at, part, at), 0.0)
        assert columns is not None
        for number, rule in enumerate(RULES):
            mask = rule.policy.screen(columns)
            assert mask is not None
            for i in mask.nonzero()[0].tolist():
                if start + i != after[number]:
                    decisions += rule.policy.judge(columns.evidence(i)) is not None
                after[number] = start + i + 1
    return time.perf_counter() - started, decisions


def looped(values: list[float]) -> tuple[float, int]:
    """Seconds that torch's class takes for the same series, point by point, and how often it reduced."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e300)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.999)
    reduced, lr = 0, 1e300
    started = time.perf_counter()
    for value in values:
        scheduler.step(value)
        now = optimizer.param_groups[0]["lr"]
        reduced, lr = reduced + (now < lr), now
    return time.perf_counter() - started, reduced


def main() -> None:
    """Prints the rates and their ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--points", type=int, default=200_000)
    options.add_argument("--json", action="store_true")
    asked = options.parse_args()
    values = series(asked.points)
    judged(values[:5_000], 1_000), looped(values[:5_000])
    theirs, reduced = looped(values)
    row = {"torch_points_per_s": asked.points / theirs, "torch_reductions": reduced}
    for chunk in (1, 5, 1_000):
        seconds, decisions = judged(values if chunk > 1 else values[: asked.points // 5], chunk)
        rate = (asked.points if chunk > 1 else asked.points // 5) / seconds
        row |= {
            f"points_per_s_at_{chunk}": rate,
            f"decisions_at_{chunk}": decisions,
            f"ratio_at_{chunk}": rate * theirs / asked.points,
        }
    if asked.json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(f"{name:24} {value:>14,.2f}" if "ratio" in name else f"{name:24} {value:>14,.0f}")


if __name__ == "__main__":
    main()
