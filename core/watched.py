"""What whoever ships an attempt's metrics has seen of a process that gives none, as a note of the attempt carries it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Watched(msgspec.Struct, frozen=True, omit_defaults=True):
    """`quiet_s`: so long it has watched without a break, and the process ran and gave nothing. `stopped` says by what the
    process is kept from running ("" where it runs), `cpu` how many cores it uses (None: not known).
    """

    quiet_s: float
    stopped: str = ""
    pid: int = 0
    host: str = ""
    state: str = ""
    cpu: float | None = None

    def details(self) -> dict[str, Any]:
        """As plain values, for a note."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Watched | None:
        """What the details of a note say, None where they say nothing of it."""
        if "quiet_s" not in details:
            return None
        try:
            return msgspec.convert(details, cls)
        except msgspec.ValidationError:
            return None

    def told(self) -> str:
        """As the end of a sentence.

        >>> Watched(700.0, pid=4242, host="gpu7", state="sleeping", cpu=0.0).told()
        'pid 4242 on gpu7 is alive, sleeping, uses no CPU'
        """
        where = f"pid {self.pid}{f' on {self.host}' if self.host else ''}" if self.pid else "its process"
        load = ""
        if self.cpu is not None:
            load = ", uses " + (
                "no CPU" if self.cpu < 0.01 else "hardly any CPU" if self.cpu < 0.1 else f"{self.cpu:.2g} CPU cores"
            )
        return f"{where} is alive{f', {self.state}' if self.state else ''}{load}"
