"""The parts of a training whose state can be copied, saved and put back: anything with state_dict and load_state_dict.

torch is only looked up, never imported for its own sake: a job that passes a model or an optimizer has it loaded.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from typing import Any

from ..core.errors import Forbidden


def state_of(part: Any) -> Any:
    """The state of one part, or of each in a list or dict of parts. The tensors are the live ones."""
    if isinstance(part, Mapping):
        return {name: state_of(one) for name, one in part.items()}
    if isinstance(part, list | tuple):
        return [state_of(one) for one in part]
    return part.state_dict()


def load_into(part: Any, state: Any) -> None:
    """Puts a state back into the part (or parts) it came from."""
    if isinstance(part, Mapping):
        for name, one in part.items():
            load_into(one, state[name])
    elif isinstance(part, list | tuple):
        for one, saved in zip(part, state, strict=True):
            load_into(one, saved)
    elif hasattr(part, "param_groups"):
        _load_optimizer(part, state)
    else:
        part.load_state_dict(state)


def on_cpu(tree: Any) -> Any:
    """A copy of a state that shares nothing with it; tensors come to the CPU, bit for bit."""
    if isinstance(tree, dict):
        copied = copy.copy(tree)  # keeps the class and what modules note beside their tensors (_metadata)
        copied.update({name: on_cpu(one) for name, one in tree.items()})
        return copied
    if isinstance(tree, list | tuple):
        return type(tree)(on_cpu(one) for one in tree) if type(tree) in (list, tuple) else copy.deepcopy(tree)
    if hasattr(tree, "detach"):
        if hasattr(tree, "to_local"):
            raise Forbidden("the model is sharded over ranks", "pass checkpoint= and restore= functions of your own")
        return tree.detach().to("cpu", copy=True)
    return copy.deepcopy(tree)


def size_bytes(tree: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(tree, Mapping):
        return sum(size_bytes(one) for one in tree.values())
    if isinstance(tree, list | tuple):
        return sum(size_bytes(one) for one in tree)
    return int(tree.numel() * tree.element_size()) if hasattr(tree, "element_size") else 0


def reset_if_not_finite(optimizer: Any) -> bool:
    """Forgets the moments of every optimizer in `optimizer` that holds a NaN or an infinity: they would spoil restored
    weights at the next step. True where something was forgotten."""
    if isinstance(optimizer, Mapping):
        return sum(reset_if_not_finite(one) for one in optimizer.values()) > 0
    if isinstance(optimizer, list | tuple):
        return sum(reset_if_not_finite(one) for one in optimizer) > 0
    tensors = [t for state in optimizer.state.values() for t in state.values() if hasattr(t, "isfinite")]
    if all(bool(tensor.isfinite().all()) for tensor in tensors):
        return False
    optimizer.state.clear()
    return True


def random_state() -> dict[str, Any]:
    """The state of the random generators in use, in forms that `torch.load(weights_only=True)` reads."""
    state: dict[str, Any] = {"python": random.getstate()}
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    if numpy is not None:
        kind, keys, position, has_gauss, gauss = numpy.random.get_state()
        state["numpy"] = [kind, keys.tolist(), int(position), int(has_gauss), float(gauss)]
    return state


def _load_optimizer(optimizer: Any, state: Any) -> None:
    """The moments come back, the hyperparameters stay: the learning rate belongs to the job's schedule, which goes on."""
    current = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "state": copy.deepcopy(state["state"])})
    for group, own in zip(optimizer.param_groups, current, strict=True):
        group.update(own)
