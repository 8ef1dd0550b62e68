"""Notices become lines of the daemon's log: losses, counters crossed, lanes down, alerts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..core.errors import CorruptData
from ..core.events import Notice, decode_as
from ..core.letters import letter_to
from ..core.ports import NOTICES, Message, Record

log = logging.getLogger("smarttuner.notices")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "alert": logging.WARNING}


class NoticeLog:
    """A consumer with a lane of its own; delivery to people (mail, chat) is a later one beside it."""

    name = "notice_log"
    topics: tuple[str, ...] = (NOTICES,)

    def __init__(self) -> None:
        self.alerts = 0
        self.dead_letters = 0

    def handle(self, records: Sequence[Record], now: float) -> list[Message]:
        """A line a notice: an alert is a line that begins with ALERT. Answers with what is no notice, as dead letters."""
        letters: list[Message] = []
        for record in records:
            try:
                notice = decode_as(record.body, Notice)
            except CorruptData as error:
                log.warning("notices/%d@%d: %s", record.partition, record.offset, error.message)
                self.dead_letters += 1
                letters.append(letter_to(record, error.message, self.name))
                continue
            word = "ALERT " if notice.level == "alert" else ""
            self.alerts += notice.level == "alert"
            log.log(LEVELS.get(notice.level, logging.WARNING), "%s%s%s", word, f"{notice.run}: " if notice.run else "", notice.text)
        return letters
