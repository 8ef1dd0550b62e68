"""What one rank of several can follow, and what it holds of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..bus.control_page import Order
from ..core.errors import SmartTunerError, Unavailable
from ..core.standing import LR_ACTIONS, PERMISSION
from .checkpoints import Parts
from .effects import Effects
from .parts import state_of
from .ranks import process_group


@dataclass
class Abilities:
    """What one rank can follow, from what its script handed over. The words go into the answer."""

    mode: str
    allow: tuple[str, ...]
    parts: Parts
    effects: Effects
    others_model: str = ""
    passes: Callable[[], bool] = lambda: True

    def refuse(self, order: Order) -> str:
        """Why this rank cannot do what `order` says, or nothing."""
        if self.mode != "act":
            return f"it was attached with mode={self.mode}"
        if PERMISSION.get(order.action) not in self.allow:
            return f"it does not allow {PERMISSION.get(order.action, order.action)}"
        if not self.effects.steerings and not self.passes():
            return "it passes no step boundary: pass optimizer= to attach, or call run.step() once a step"
        if order.action in LR_ACTIONS and not self.effects.steerings:
            return "it gave no optimizer"
        if order.action == "checkpoint" and self.parts.save is None and sharded(self.parts.model):
            return "the model is sharded: pass checkpoint= and restore= to attach on every rank"
        which = wanted_weights(order)
        if which is None or (order.action == "prune" and self.parts.load is None and sharded(self.parts.model)):
            return ""  # a prune ends the run also where rank 0 has no weights to put back, and says so
        return self._refuse_weights(which)

    def _refuse_weights(self, which: str | int) -> str:
        if which != "best" and self.parts.load is not None:
            return ""
        if sharded(self.parts.model):
            return "the model is sharded: pass checkpoint= and restore= to attach on every rank"
        if self.others_model and shape_of(self.parts.model) != self.others_model:
            return f"its model is {shape_of(self.parts.model) or 'not given'}, rank 0 has {self.others_model}"
        if which != "best":
            try:
                self.effects.checkpoints.find(which)
            except (SmartTunerError, OSError) as error:
                return str(error).splitlines()[0]
        return ""


def wanted_weights(order: Order) -> str | int | None:
    """Which weights an order puts back, if it does."""
    if order.action == "restore":
        names = ("which", "to", "restore", "step")
        which = next((order.params[name] for name in names if order.params.get(name) is not None), "best")
    elif order.action == "prune":
        which = order.params.get("restore")
    else:
        return None
    if isinstance(which, str) and which.isdecimal():
        return int(which)
    return which if isinstance(which, int | str) else None


def spread(model: Any) -> None:
    """Rank 0's weights on every rank, bit for bit; a collective of the default process group."""
    group = process_group()
    if group is None:
        raise Unavailable("the process group is gone")
    for tensor in _tensors(state_of(model)):
        whole = tensor.detach().contiguous()
        group.broadcast(whole, src=0)
        if whole.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(whole)


def _tensors(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for one in tree.values():
            yield from _tensors(one)
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from _tensors(one)
    elif hasattr(tree, "detach"):
        yield tree


def _modules(part: Any) -> Iterator[Any]:
    if isinstance(part, Mapping):
        part = list(part.values())
    for one in part if isinstance(part, list | tuple) else [part]:
        if hasattr(one, "modules") and hasattr(one, "parameters"):
            yield one


def sharded(model: Any) -> bool:
    """Whether each rank holds a part of the model only (FSDP of either kind, tensor parallel, ZeRO 3): asking for its
    state is a collective then, or gives a part."""
    for one in _modules(model):
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in one.modules()):
            return True
        if any(hasattr(tensor, "to_local") or hasattr(tensor, "ds_id") for tensor in one.parameters()):
            return True
    return False


def shape_of(model: Any) -> str:
    """Enough of a model to see that two ranks do not hold the same, in words."""
    tensors = [tensor for one in _modules(model) for tensor in one.parameters()]
    try:
        return f"{len(tensors)} tensors of {sum(tensor.numel() for tensor in tensors)} numbers" if tensors else ""
    except (RuntimeError, ValueError):  # a lazy module's parameters have no size yet
        return ""
