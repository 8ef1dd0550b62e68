"""One judgement a file. A new policy is a new file, a line here and a section in docs/policies.md."""

from __future__ import annotations

from ...core.ports import Policy
from ...core.registry import Registry
from .divergence import Divergence
from .extrapolation import Extrapolation
from .halving import Halving
from .improvement import Improvement
from .median import Median
from .patience import Patience
from .plateau import Plateau
from .quality_gate import QualityGate
from .stall import Stall

REGISTRY: Registry[Policy] = Registry(
    "policy",
    {
        "patience": Patience,
        "plateau": Plateau,
        "improvement": Improvement,
        "quality_gate": QualityGate,
        "divergence": Divergence,
        "stall": Stall,
        "extrapolation": Extrapolation,
        "median": Median,
        "halving": Halving,
    },
)
