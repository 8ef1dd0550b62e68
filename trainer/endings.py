"""How a process that never called finish() ended: exit 0 is finished, an exception or another exit code failed."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .raised import described, exited

if TYPE_CHECKING:
    from .attachment import Attachment


class Endings:
    """The attachments of this process that have not ended. Watches from the first one on, once a process."""

    def __init__(self) -> None:
        self._open: dict[int, Attachment] = {}
        self._watching = False
        self._failed: tuple[str, dict[int, int] | None] | None = None
        """Why, and what the last word of each attachment was then; None where nothing said later counts."""

    def add(self, attachment: Attachment) -> None:
        """Ends it at the latest when the process ends."""
        self._open[id(attachment)] = attachment
        if not self._watching:
            self._watching = True
            atexit.register(self._at_exit)
            os.register_at_fork(after_in_child=self._in_child)
            self._chain_excepthook()
            self._chain_exit()

    def stay_first(self) -> None:
        """Functions that a process registers for its end run the last first: a Kafka client made since would be gone before we
        have shipped what is left."""
        if self._watching:
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def remove(self, attachment: Attachment) -> None:
        """It has ended."""
        self._open.pop(id(attachment), None)

    def _at_exit(self) -> None:
        for key, attachment in list(self._open.items()):
            why, told = self._failed or (None, None)
            if why is not None and (told is None or told.get(key) == attachment.last_word):
                attachment.end("failed", why)
            else:
                attachment.finish()

    def _in_child(self) -> None:
        children, self._open = self._open, {}
        for attachment in children.values():
            attachment.forget()

    def _chain_excepthook(self) -> None:
        """An exception that reaches the interpreter ends a script. A person's session goes on after it, and may log again."""
        chained = sys.excepthook

        def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._failed = described(error), self._told() if hasattr(sys, "ps1") else None
            chained(kind, error, trace)

        sys.excepthook = excepthook

    def _chain_exit(self) -> None:
        """Nothing tells an atexit function the exit code. sys.exit, exit and quit do, but their SystemExit may be caught: the
        code counts only if nothing was logged after it. A bare `raise SystemExit(3)` is seen by nobody."""
        chained = sys.exit

        @functools.wraps(chained)  # pickled by this name, as it is unwatched
        def leave(status: Any = None, /) -> Any:
            self._note(status)
            chained(status)

        sys.exit = leave
        if (quitter := getattr(sys.modules.get("_sitebuiltins"), "Quitter", None)) is not None:
            called = quitter.__call__

            def quit_(this: Any, code: Any = None) -> Any:
                self._note(code)
                called(this, code)

            quitter.__call__ = quit_  # exit(3) and quit(3) raise without sys.exit

    def _note(self, status: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._failed = None if status in (None, 0) else (exited(status), self._told())

    def _told(self) -> dict[int, int]:
        return {key: one.last_word for key, one in self._open.items()}


ENDINGS = Endings()  # a process ends once
