"""Errors by who acts on them; every message ends with what to do."""

from __future__ import annotations


class SmartTunerError(Exception):
    """Anything Smart Tuner says about itself. `hint` is one sentence that tells a person what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n    hint: {self.hint}" if self.hint else self.message


class UsageError(SmartTunerError):
    """What was typed or passed makes no sense; the caller changes it."""

    exit_code = 2


class ConfigError(SmartTunerError):
    """A person edits a file: the message is `file:line: path: what`."""

    exit_code = 3


class Unavailable(SmartTunerError):
    """A part is away for now (broker, disk, daemon); the lane retries."""

    exit_code = 4


class CorruptData(SmartTunerError):
    """Bytes that cannot be what they claim; they are counted, kept aside and alerted, never fatal to the rest."""


class Forbidden(SmartTunerError):
    """Refused by a gate or a permission, and audited."""

    exit_code = 12
