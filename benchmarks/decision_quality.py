"""How good the policies that compare runs are, on real learning curves: what they save, and what they lose.

    python benchmarks/decision_quality.py [CURVES] [--folds] [--in-turn] [--thin N] [--late] [--trials N] [--seed S]

CURVES is a Parquet table (group, workload, trial, step, value, higher_is_better); else SMART_TUNER_CURVES, else
../shared/data/learning_curves.parquet. All trials of a group are fed in the order of their steps (ties in the table's order);
a policy is asked when a point closes a rung of its run, and sees the closed rungs of the others as they stood just then, as in
core/rungs.py and core/peers.py. Rules that "know" are shown the length of the longest trial, which a daemon is not.

--folds also chooses the thresholds of `extrapolation` by cross-validation, over families of workloads and over submissions.
--in-turn starts a trial when the one before has ended; --late starts each a tenth of the longest later; --thin keeps of each
trial every 1st to Nth point; --trials keeps N of each group.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from decision_rules import Policy, deviations, extrapolation, halving, halving_known, median, never
from smarttuner.core.rungs import rungs_of

FAMILIES = (
    "criteo",
    "fastmri",
    "imagenet_resnet",
    "imagenet_vit",
    "librispeech_conformer",
    "librispeech_deepspeech",
    "ogbg",
    "wmt",
)


@dataclass
class Group:
    """Its curves, turned so that less is better, and the order in which their points arrive: (trial, index)."""

    name: str
    family: str
    submission: str
    steps: list[list[int]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    order: list[tuple[int, int]] = field(default_factory=list)

    def arrange(self, in_turn: bool, late: bool) -> Group:
        begins = [0.1 * trial * max(s[-1] for s in self.steps) * late for trial in range(len(self.steps))]
        at = [
            (trial if in_turn else begins[trial] + s, trial, i) for trial, own in enumerate(self.steps) for i, s in enumerate(own)
        ]
        self.order = [(trial, i) for _, trial, i in sorted(at)]
        self.rungs = [rungs_of(np.array(own)).tolist() for own in self.steps]
        self.best = [np.minimum.accumulate(own).tolist() for own in self.values]
        self.longest = max(own[-1] for own in self.steps)
        return self


class Moment:
    """What a policy may look at: of each trial the closed rungs (best until then), of this one also step and evaluations."""

    def __init__(self, group: Group) -> None:
        self.longest = group.longest
        self.rungs: list[list[float]] = [[] for _ in group.steps]
        self.state = ["running"] * len(group.steps)
        self.trial = self.rung = self.step = 0
        self.memory: dict[int, float] = {}
        self.evaluations = [0] * len(group.steps)

    def own(self, rung: int) -> float:
        return self.rungs[self.trial][rung] if rung >= 0 else math.inf

    def at(self, trial: int, rung: int) -> float:
        """The trial's best until the rung or until the last that is known of it; NaN where nothing is."""
        known = self.rungs[trial]
        return known[min(max(rung, 0), len(known) - 1)] if known else math.nan

    def peers(self) -> list[int]:
        return [trial for trial, known in enumerate(self.rungs) if trial != self.trial and known]


class Outcome(NamedTuple):
    ran: int
    whole: int
    best_cut: bool
    loss: float


def simulate(group: Group, policy: Policy, patience: int = 1_000_000) -> Outcome:
    """Feeds the group's points in order; what is ended, by the policy or without a new best for `patience` points, gives no
    more of them."""
    count = len(group.steps)
    moment, best, since, ended = Moment(group), [math.inf] * count, [0] * count, [-1] * count
    for trial, i in group.order:
        if moment.state[trial] != "running":
            continue
        rung, value, known = group.rungs[trial][i], group.values[trial][i], moment.rungs[trial]
        stop = False
        if i and rung > len(known):
            known.extend([math.inf] * (group.rungs[trial][0] - len(known)))
            known.extend([best[trial]] * (rung - len(known)))
            moment.trial, moment.rung, moment.step = trial, rung - 1, group.steps[trial][i]
            stop = policy(moment)
        since[trial] = 0 if value < best[trial] else since[trial] + 1
        best[trial] = min(best[trial], value)
        moment.evaluations[trial] += 1
        stop = stop or since[trial] >= patience
        if stop or i == len(group.steps[trial]) - 1:
            moment.state[trial], ended[trial] = "pruned" if stop else "finished", i
            known.extend([best[trial]] * (rung + 1 - len(known)))
    finals = [own[-1] for own in group.best]
    seen = [own[end] for own, end in zip(group.best, ended, strict=True)]
    whole = min(finals)
    return Outcome(
        sum(own[end] for own, end in zip(group.steps, ended, strict=True)),
        sum(own[-1] for own in group.steps),
        seen[finals.index(whole)] > whole,
        (min(seen) - whole) / abs(whole) if whole else float(min(seen) > whole),
    )


def load(path: Path, asked: argparse.Namespace) -> list[Group]:
    """The groups of the table; a step that is seen again in a trial is left out."""
    import pandas as pd

    dice = np.random.default_rng(asked.seed)
    table = pd.read_parquet(path).astype({"group": str, "trial": str, "workload": str})
    table = table.drop_duplicates(["group", "trial", "step"])
    groups = []
    for name, rows in table.groupby("group", sort=True):
        workload = rows.workload.iloc[0]
        family = next((one for one in FAMILIES if workload.startswith(one)), workload)
        group = Group(str(name), family, str(name).split("|")[0].split("/")[-1])
        trials = [curve.sort_values("step") for _, curve in rows.groupby("trial", sort=False)]
        if asked.trials:
            trials = [trials[i] for i in sorted(dice.permutation(len(trials))[: asked.trials])]
        for curve in trials:
            every = int(dice.integers(1, asked.thin + 1))
            values = curve.value.to_numpy(float)[::every]
            group.steps.append(curve.step.tolist()[::every])
            turned = np.where(curve.higher_is_better.to_numpy()[::every], -values, values)
            group.values.append(np.where(np.isfinite(turned), turned, np.inf).tolist())
        groups.append(group.arrange(asked.in_turn, asked.late))
    return groups


def saved(outcomes: Iterable[Outcome]) -> float:
    known = list(outcomes)
    return 1 - sum(one.ran for one in known) / sum(one.whole for one in known)


def lost(outcomes: Sequence[Outcome]) -> float:
    return sum(one.loss > 0.01 for one in outcomes) / len(outcomes)


def line(name: str, groups: Sequence[Group], outcomes: Sequence[Outcome]) -> str:
    """One row of the table: over all, then the least saved and the most lost of a family of workloads."""
    families = [[o for g, o in zip(groups, outcomes, strict=True) if g.family == f] for f in sorted({g.family for g in groups})]
    each = [saved(one) for one in families]
    cut = sum(one.best_cut for one in outcomes) / len(outcomes)
    tail = np.quantile([one.loss for one in outcomes], (0.95, 0.99))
    return (
        f"| {name} | {saved(outcomes):.1%} | {cut:.1%} | {lost(outcomes):.1%} | {tail[0]:.2%} / {tail[1]:.2%} "
        f"| {min(each):.0%} to {max(each):.0%} | {max(lost(one) for one in families):.0%} |"
    )


HEAD = "| policy | saved | best cut | lose > 1 % | loss p95 / p99 | saved, by family | worst family loses |\n" + "|---" * 7 + "|"
GRID = list(itertools.product((3.5, 4.0, 4.5, 5.0, 5.5, 6.5), (0.15, 0.25, 0.35)))
"""(doublings, credit) that the folds choose from."""


def choose(known: dict[tuple[float, float], list[Outcome]], keep: list[bool], most: float) -> tuple[float, float]:
    """Of the grid what saves most where at most `most` of the kept groups lose; where none does, what loses least."""
    kept = {at: [one for one, use in zip(found, keep, strict=True) if use] for at, found in known.items()}
    good = [at for at in kept if lost(kept[at]) <= most]
    return max(good, key=lambda at: saved(kept[at])) if good else min(kept, key=lambda at: lost(kept[at]))


def folds(groups: list[Group], most: float = 0.015) -> None:
    """Held-out scores: each fold is judged with the thresholds that the other folds chose."""
    known = {at: [simulate(group, extrapolation(*at)) for group in groups] for at in GRID}
    for by in ("family", "submission"):
        held: list[Outcome | None] = [None] * len(groups)
        print(f"\nheld out by {by} (at most {most:.1%} of the other groups may lose)\n")
        print(f"| {by} | groups | doublings, credit | saved | lose > 1 % |")
        print("|---|---|---|---|---|")
        for fold in sorted({getattr(group, by) for group in groups}):
            inside = [getattr(group, by) == fold for group in groups]
            at = choose(known, [not one for one in inside], most)
            mine = [o for o, one in zip(known[at], inside, strict=True) if one]
            held = [known[at][i] if one else held[i] for i, one in enumerate(inside)]
            print(f"| {fold} | {sum(inside)} | {at[0]:g}, {at[1]:g} | {saved(mine):.1%} | {lost(mine):.1%} |")
        print(f"| all, held out | {len(groups)} | | {saved(held):.1%} | {lost(held):.1%} |")  # type: ignore[arg-type]


TABLE: dict[str, Policy | tuple[Policy, int]] = {
    "extrapolation": extrapolation(),
    "extrapolation or patience 20": (extrapolation(), 20),
    "median": median(),
    "halving": halving(),
    "patience 5": (never, 5),
    "patience 10": (never, 10),
    "patience 20": (never, 20),
    "median, knows, grace 10 %": median(0, 0.1),
    "halving, knows, from 25 %": halving_known(),
    "3 deviations, knows, grace 30 %": deviations(3, 0.3),
    "2 deviations, knows, grace 20 %": deviations(2, 0.2),
    "2 deviations, knows, grace 10 %": deviations(2, 0.1),
    "2 deviations and 1/4 of the gain to come, knows, grace 5 %": deviations(2, 0.05, 0.25),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    curves = os.environ.get("SMART_TUNER_CURVES", str(Path(__file__).parents[1] / "../shared/data/learning_curves.parquet"))
    parser.add_argument("curves", nargs="?", default=curves)
    for flag in ("--folds", "--in-turn", "--late"):
        parser.add_argument(flag, action="store_true")
    for option, value in (("--thin", 1), ("--trials", 0), ("--seed", 0)):
        parser.add_argument(option, type=int, default=value)
    asked = parser.parse_args()
    began = time.monotonic()
    groups = load(Path(asked.curves), asked)
    print(f"{len(groups)} groups, {sum(len(group.order) for group in groups):,} points\n\n{HEAD}")
    for name, judges in TABLE.items():
        policy = judges if isinstance(judges, tuple) else (judges,)
        print(line(name, groups, [simulate(group, *policy) for group in groups]), flush=True)
    if asked.folds:
        folds(groups)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
