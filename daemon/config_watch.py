"""The list `watch`: which runs are judged by what. The first entry that fits a run holds; the file's own sections are the last."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..core.events import Goal
from .config_judging import EarlyStopping, JobLimits, Policies
from .config_types import Globs, Section, Text, key, part

MOST_ENTRIES = 256
TagName = Annotated[str, Field(min_length=1, max_length=256)]


class Match(Section):
    """What a run must be for an entry to hold: every key that stands here fits; none fits every run."""

    name: Globs | None = key("patterns (* ? [abc]) of the run's name", None)
    user: Globs | None = key("patterns of the user whose job it is", None)
    group: Globs | None = key("patterns of the run's group; a run without one fits none", None)
    tags: dict[TagName, Globs] = key("for each tag patterns of its value; a run without the tag fits none", {})
    source: Globs | None = key("patterns of what tells of the run: sdk for a job that is attached", None)


class WatchEntry(Section):
    """What holds for the runs that fit. What an entry leaves out is as in the file's own sections; `policies` and
    `early_stopping` together take the place of both of those."""

    match: Match = part("which runs", Match)
    monitor: Text | None = key("the series that is judged where the job names none", None)
    goal: Goal | None = key("whether that series is better low (min) or high (max)", None)
    mode: Literal["act", "observe", "off"] | None = key("the most that any policy does here; off: these runs are not judged", None)
    policies: Policies | None = key("modes and options of the policies, as in the file's own section", None)
    early_stopping: EarlyStopping | None = key("strategies and gates, as in the file's own section", None)
    limits: JobLimits | None = key("what the job may say itself", None)
    alerts: Text | None = key("the route that alerts about these runs take", None)


Watch = Annotated[list[WatchEntry], Field(max_length=MOST_ENTRIES)]
