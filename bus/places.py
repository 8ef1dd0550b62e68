"""Where things live on this machine: data directories, sockets, spools. Reads no environment itself: it is handed one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ConfigError

SYSTEM_SOCKET = Path("/run/smart-tuner/bus.sock")
SYSTEM_FOLDER = Path("/var/lib/smart-tuner")
LOCAL_BUS = "local:"


@dataclass(frozen=True)
class Place:
    """A data directory and the bus that goes with it. `found_by` is argument, environment, system service or own directory."""

    folder: Path
    bus: str
    found_by: str

    @property
    def of_system(self) -> bool:
        """Whether it is the system service's, which listens under /run for every user of the host."""
        return self.found_by == "system service" or (self.folder == SYSTEM_FOLDER and SYSTEM_SOCKET.exists())

    @property
    def is_local(self) -> bool:
        """Whether its log lies in the data directory."""
        return self.bus == LOCAL_BUS

    @property
    def socket(self) -> Path:
        """Where a daemon of this place listens."""
        return SYSTEM_SOCKET if self.of_system else self.folder / "bus.sock"

    @property
    def listener(self) -> str:
        """The folder of that socket, as bus/query.py and bus/doorbell.py want it."""
        return str(self.socket.parent)

    @property
    def address(self) -> str:
        """What a spool's header names as its destination: the data directory, or the broker's URL."""
        return str(self.folder) if self.bus == LOCAL_BUS else self.bus


def state_home(environ: Mapping[str, str]) -> Path:
    """The person's own directory, `$XDG_STATE_HOME/smart-tuner`; a relative XDG_STATE_HOME is ignored, as XDG asks. ConfigError
    for a user without a home, to whom `~` is a name: a folder called so would come to lie wherever the job runs."""
    base = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "smart-tuner"
    home = environ.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ConfigError("this user has no home directory", "set HOME or XDG_STATE_HOME to the path of a folder")
    return Path(home) / ".local" / "state" / "smart-tuner"


def spool_folder(environ: Mapping[str, str]) -> Path:
    """Where the jobs of this user keep their spools and journals."""
    return state_home(environ) / "spool"


def spool_folders(environ: Mapping[str, str]) -> tuple[str, ...]:
    """`spool_folder`; none for a user without a home, whose daemon does without one."""
    try:
        return (str(spool_folder(environ)),)
    except ConfigError:
        return ()


def find_place(environ: Mapping[str, str], data_dir: str | os.PathLike[str] | None = None, bus: str | None = None) -> Place:
    """The place to use: argument, environment, a system service that runs here, the person's own directory, in this order."""
    url = bus or environ.get("SMART_TUNER_BUS") or LOCAL_BUS
    if data_dir is not None:
        return Place(_absolute(data_dir), url, "argument")
    if environ.get("SMART_TUNER_DATA_DIR"):
        return Place(_absolute(environ["SMART_TUNER_DATA_DIR"]), url, "environment")
    if SYSTEM_SOCKET.exists():
        return Place(SYSTEM_FOLDER, url, "system service")
    return Place(state_home(environ), url, "own directory")


def list_places(environ: Mapping[str, str], data_dir: str | os.PathLike[str] | None = None) -> list[Place]:
    """Every place there may be one, in the order of the search, each folder once: what `doctor` looks through."""
    url = environ.get("SMART_TUNER_BUS") or LOCAL_BUS
    found = [find_place(environ, data_dir)]
    if environ.get("SMART_TUNER_DATA_DIR"):
        found.append(Place(_absolute(environ["SMART_TUNER_DATA_DIR"]), url, "environment"))
    found.append(Place(SYSTEM_FOLDER, url, "system service"))
    found += [Place(Path(one).parent, url, "own directory") for one in spool_folders(environ)]
    return list({place.folder: place for place in reversed(found)}.values())[::-1]


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))
