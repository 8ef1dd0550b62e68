"""What the SDK says on stderr: few lines, each once, and never an exception into the training."""

from __future__ import annotations

import sys

from .raised import let_through

MOST_LINES = 200


class Voice:
    """Speaks for one attachment; `quiet` where nothing shall be said."""

    def __init__(self, quiet: bool = False) -> None:
        self._left = 0 if quiet else MOST_LINES
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """One line (or an indented block) on stderr; not with print, which many jobs replace by one that speaks on stdout, too."""
        if self._left <= 0:
            return
        self._left -= 1
        try:
            stderr = sys.stderr
            stderr.write(f"smart-tuner: {text}\n")
            stderr.flush()
        except Exception as error:  # noqa: BLE001  # stderr is closed, full, None, or an object of the job's: nobody reads
            let_through(error)
            self._left = 0

    def once(self, about: str, text: str) -> None:
        """As `say`, but only the first time something is said about `about`."""
        if about not in self._said and len(self._said) < MOST_LINES:
            self._said.add(about)
            self.say(text)
