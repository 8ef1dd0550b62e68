"""Files that are not whole yet, or that live no longer than their process: under hidden names that say whose they are."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from ..bus.process import boot_id, pid_namespace, pid_started

_OURS = re.compile(r"\.(?:step|best)-\d+\.[\w-]+@([0-9a-f]*)-(\d+)-(\d+)", re.ASCII)
"""What `hidden_name` makes. A folder of the job's own may hold hidden files of its own, `.best-model.pt` among them."""
FOREIGN_S = 24 * 3600.0
"""What a process of another boot or host left goes when nobody has touched it for a day."""


def hidden_name(kind: str, rest: str) -> str:
    """For what this process writes; `kind` is `.step-` or `.best-`, `rest` a number and an attempt with a dot between."""
    pid = os.getpid()
    return f"{kind}{rest}@{_here()}-{pid}-{pid_started(pid)}"


def _here() -> str:
    """Where process ids count: this boot, this namespace."""
    return boot_id()[:8] + "".join(filter(str.isdigit, pid_namespace()))


def remove(path: Path) -> None:
    """A file or a folder, whether or not it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def sweep_hidden(folder: Path, now: float) -> None:
    """Removes what dead processes left in `folder`; `now` in seconds since 1970."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        named = _OURS.fullmatch(path.name)
        if named is None:
            continue
        boot, pid, began = named.groups()
        if boot == _here():
            gone = pid_started(int(pid)) != int(began)
        else:
            try:
                gone = now - path.stat().st_mtime > FOREIGN_S
            except OSError:
                continue
        if gone:
            remove(path)
