"""The section early_stopping.strategies: the policies that a person may name, with their options."""

from __future__ import annotations

from typing import Literal

from .config_types import Flag, Named, Number, Seconds, Section, Whole, key


class PatienceBased(Section):
    """End a run that does not improve any more."""

    patience: Whole = key("points of the judged series without an improvement before the run is ended", 6, "points", ge=1)
    min_delta: Number = key("what counts as an improvement", 0.001, "of the series", ge=0)
    mode: Literal["min", "max"] = key("whether the judged series is better low (min) or high (max)", "min")
    restore_best_weights: Flag = key("keep the best weights in the job and put them back at the end", True)


class PlateauDetection(Section):
    """Lower the learning rate on a plateau, as torch's ReduceLROnPlateau."""

    factor: Number = key("what the learning rate is multiplied by", 0.5, gt=0, lt=1)
    patience: Whole = key("points without an improvement that are let pass", 4, "points", ge=0)
    threshold: Number = key("relative improvement that counts", 0.0001, "share of the best", ge=0, lt=1)
    cooldown: Whole = key("points after a change in which nothing is counted", 2, "points", ge=0)


class ImprovementThreshold(Section):
    """End a run whose improvement over a window is too small."""

    min_improvement_percent: Number = key("least improvement over the window", 0.5, "percent", ge=0)
    evaluation_window: Whole = key("the window", 10, "points", ge=1, le=4096)


class DivergenceRule(Section):
    """End a run whose judged series left all reason."""

    points: Whole = key("points in a row outside the band", 3, "points", ge=1, le=16)
    width: Number = key("half of the band around the median", 6.0, "robust standard deviations", gt=0)
    rise_percent: Number = key("how much worse than the median a point outside must be besides", 50.0, "percent", ge=0)
    not_finite: Whole = key("NaN or infinite points in a row", 1, "points", ge=1)
    then: Literal["prune", "alert"] = key("end the run, or tell", "prune")


class StallRule(Section):
    """Report a run that is alive and gives no metric any more."""

    min_silence_s: Seconds = key("silence that every run is allowed", 600.0, "seconds", gt=0)
    first_metric_s: Seconds = key("from the start of a run to its first metric", 3600.0, "seconds", gt=0)
    factor: Number = key("silence that is allowed besides: so many of the run's own usual longest gaps", 10.0, "gaps", ge=1)
    then: Literal["alert", "prune"] = key("tell, or ask the job to end", "alert")


class ExtrapolationRule(Section):
    """End a run that will not catch up with the other runs of its group."""

    doublings: Number = key(
        "as far away from being better than a peer, at its own pace, is too far", 4.5, "doublings of its steps", gt=0
    )
    margin_percent: Number = key("being better by less is not worth going on", 1.0, "percent of the peer's value", ge=0)
    credit: Number = key("how much of its own pace the peer is held to keep", 0.25, "share", ge=0, lt=1)
    after: Whole = key("points of the judged series before it is looked at", 8, "points", ge=0)


class MedianRule(Section):
    """End a run that is worse than the median of its group was at the same step."""

    after: Whole = key("points of the judged series before it is looked at", 8, "points", ge=0)
    peers: Whole = key("other runs that must have come as far", 3, "runs", ge=1)


class HalvingRule(Section):
    """End all but the best of a group each time the steps have grown by a factor."""

    factor: Number = key("of so many runs one goes on, so many times as far", 2.0, gt=1)
    after: Whole = key("points of the judged series before it is looked at", 8, "points", ge=0)


class Strategies(Section):
    """The strategies that a person named act; those not named observe."""

    divergence: Named[DivergenceRule] = key("end a run whose series left all reason", None)
    patience_based: Named[PatienceBased] = key("end a run that does not improve any more", None)
    stall: Named[StallRule] = key("tell of a run that is alive and gives no metric any more", None)
    plateau_detection: Named[PlateauDetection] = key("lower the learning rate on a plateau", None)
    improvement_threshold: Named[ImprovementThreshold] = key("end a run whose improvement is too small", None)
    extrapolation: Named[ExtrapolationRule] = key("end a run that will not catch up with its group", None)
    median: Named[MedianRule] = key("end a run that is worse than the median of its group", None)
    halving: Named[HalvingRule] = key("end all but the best of a group, again and again", None)
