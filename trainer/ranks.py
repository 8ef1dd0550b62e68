"""Which rank of how many this process is, and the store of the job through which the ranks of one run agree.

Nothing here imports torch: a job of several ranks has it loaded, and a rank whose process group does not stand yet waits.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from ..bus.process import boot_id, pid_namespace, pid_started

STORE_TIMEOUT_S = 10.0


class Seat(NamedTuple):
    """This process among the ranks of its job. `restarts` counts those of an elastic launcher, -1 without one."""

    rank: int = 0
    world_size: int = 1
    restarts: int = -1

    @property
    def alone(self) -> bool:
        return self.world_size <= 1

    def suffix(self, attempt: str) -> str:
        """Of a run without a name: random, but the same again after the restarts of one elastic launcher."""
        if self.restarts < 0:
            return attempt[-6:].lower()
        launcher = os.getppid()
        return hashlib.sha256(f"{boot_id()} {launcher} {pid_started(launcher)}".encode()).hexdigest()[:6]


def find_seat(environ: Mapping[str, str]) -> Seat:
    """The process group's word where it stands, else the launcher's (torchrun, accelerate launch, …) in the environment."""
    group, restarts = process_group(), _count(environ, "TORCHELASTIC_RESTART_COUNT", -1)
    if group is not None:
        return Seat(group.get_rank(), group.get_world_size(), restarts)
    return Seat(_count(environ, "RANK", 0), _count(environ, "WORLD_SIZE", 1), restarts)


def _count(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    said = environ.get(name, "")
    return int(said) if said.isdecimal() else otherwise


def process_group() -> Any:
    """torch.distributed, where its default process group stands; else None."""
    distributed = sys.modules.get("torch.distributed")
    asked = getattr(distributed, "is_initialized", None)  # absent while another thread still imports it
    return distributed if asked is not None and asked() else None


class Table:
    """What the ranks say to each other: JSON under keys, each written once. Not one call waits for a key to appear, so
    that the job's own use of the store is never held up; each may take a round trip to the store, or raise as it does."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, key: str, said: Any) -> None:
        """Says something under a key that only this rank writes."""
        self._store.set(key, msgspec.json.encode(said).decode())

    def has(self, *keys: str) -> bool:
        """Whether all of `keys` have been written."""
        return bool(self._store.check(list(keys)))

    def read(self, key: str) -> Any:
        """What was said under `key`, None where nothing was."""
        return msgspec.json.decode(self._store.get(key)) if self.has(key) else None

    def settle(self, key: str, said: Any) -> Any:
        """Says something under a key that several may write: whoever came first is right, and that is returned."""
        return msgspec.json.decode(self._store.compare_set(key, "", msgspec.json.encode(said).decode()))


def open_table(name: str) -> Table | None:
    """The table of attachment `name` in the store of the default process group; None while there is no group.

    A connection of our own where the store can be cloned: a call of the job's that waits in the store would keep ours
    waiting, and the other way round.
    """
    distributed = process_group()
    if distributed is None:
        return None
    store = distributed.distributed_c10d._get_default_store()
    try:
        store = store.clone()
        store.set_timeout(timedelta(seconds=STORE_TIMEOUT_S))
    except (AttributeError, NotImplementedError, RuntimeError):
        pass  # an older torch, or a store that cannot: shared, and no call of ours waits in it
    return Table(distributed.PrefixStore(f"smart-tuner/{name}", store))


class Peer(msgspec.Struct, frozen=True):
    """The process of a rank, as another rank on the same host can look for it."""

    boot: str = ""
    namespace: str = ""
    pid: int = 0
    started: int = 0

    @classmethod
    def of_this_process(cls) -> Peer:
        return cls(boot_id(), pid_namespace(), os.getpid(), pid_started(os.getpid()))

    def is_dead(self, seen_from: Peer) -> bool:
        """Whether it has surely ended; of a process on another host nothing is known."""
        near = self.started > 0 and (self.boot, self.namespace) == (seen_from.boot, seen_from.namespace)
        return near and pid_started(self.pid) != self.started
