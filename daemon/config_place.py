"""Which file the configuration is, and whether there is any: known without what it takes to read one."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from .config_fill import PREFIX

SYSTEM_FILE = "/etc/smart-tuner/config.yaml"


def none_stated(stated: str | pathlib.Path | None, environ: Mapping[str, str]) -> bool:
    """Whether the shipped defaults are in force, all of them."""
    return find(stated, environ) is None and not any(name.startswith(PREFIX) for name in environ)


def find(stated: str | pathlib.Path | None, environ: Mapping[str, str]) -> pathlib.Path | None:
    """`stated`, else SMART_TUNER_CONFIG, else the person's file, else the system's; None where there is none of them."""
    if stated is not None:
        return pathlib.Path(stated)
    if environ.get("SMART_TUNER_CONFIG"):
        return pathlib.Path(environ["SMART_TUNER_CONFIG"])
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    candidates = [pathlib.Path(home) / "smart-tuner" / "config.yaml"] if home else []
    return next((one for one in [*candidates, pathlib.Path(SYSTEM_FILE)] if one.is_file()), None)
