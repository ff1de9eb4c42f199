"""The log of a process: what it says on standard error beside its answers, for people and the log files of hosts."""

import logging

from cld.config import LogLevel
from cld.escape import safe_line


def begin(level: LogLevel) -> None:
    """From now on say what is of this level or above; warnings are said as Python does without any set-up."""
    if level == "warning":
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("cld")
    logger.setLevel(level.upper())
    logger.handlers, logger.propagate = [handler], False


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        # What others wrote may be in it.
        return safe_line(super().formatMessage(record))
