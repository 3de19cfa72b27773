"""What nono itself says during a run: to standard error unless it is to be silent, and to the file of --log-file.

The log has all of it, each line with its time (UTC), also with --silent and without colours, so that a full-screen
agent's terminal can be left alone. It is opened before anything else is done, appended to, created 0600. It is no
symbolic link, and none below the working directory is followed to it: what cannot be logged is said before the agent
starts. Later troubles with it (a full disk) do not disturb the run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from time import gmtime, strftime

from nono.cli import render
from nono.errors import NonoError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Self

HELP = {
    "verbose": "list every path and variable in the summary; show each request of the agent's when it has ended",
    "silent": "no summary, before or after",
    "log_file": "append all that nono says to FILE, with its time, also when it is silent",
}


def add_message_arguments(group: argparse._ActionsContainer) -> None:
    """Declare the flags that say how much is said, and where."""
    group.add_argument("-v", "--verbose", action="count", default=0, help=HELP["verbose"])
    group.add_argument("-s", "--silent", action="store_true", help=HELP["silent"])
    group.add_argument("--log-file", metavar="FILE", help=HELP["log_file"])


class Messages:
    """Where nono's own lines go; a context manager."""

    def __init__(self, *, silent: bool = False, log_file: str | None = None) -> None:
        """Open the log. Raises UsageError."""
        self.is_silent = silent
        self._log_fd = -1 if log_file is None else _open(log_file)

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Say rows of render.py; nothing where there are none."""
        if rows:
            if not self.is_silent:
                render.to_stderr(render.table(rows, colour=render.shows_colour()))
            self._log(render.table(rows))

    def notice(self, sentence: str) -> None:
        """Say something while the user waits, or while the agent has made the terminal raw; also when silent."""
        render.notice(sentence)
        self._log(f"nono  note  {render.printable(sentence)}\n")

    def line(self, text: str) -> None:
        """Log a line that is shown otherwise, without its end."""
        self._log(text + "\n")

    @property
    def is_logged(self) -> bool:
        """Whether there is a log."""
        return self._log_fd >= 0

    def _log(self, text: str) -> None:
        if self._log_fd < 0:
            return
        stamp = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        try:
            data = "".join(f"{stamp} {line}\n" for line in text.splitlines())
            os.write(self._log_fd, data.encode("utf-8", "backslashreplace"))
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and isinstance(error, Exception):
            self._log("\n".join(render.error(str(error), error.details if isinstance(error, NonoError) else ())))
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1


def refuse_planted_links(flag: str, path: str) -> None:
    """Refuse a file that a link below the working directory leads away: an earlier agent may have made it.

    nono would write there with all rights of the user. Raises UsageError.
    """
    directory, here = os.path.dirname(os.path.abspath(path)), os.getcwd()
    while directory.startswith(here.rstrip("/") + "/"):
        if os.path.islink(directory):
            real = os.path.realpath(directory)
            raise UsageError(f"{flag} {path}: {directory} is a link; name what it leads to, if you made it: {real}")
        directory = os.path.dirname(directory)


def _open(path: str) -> int:
    refuse_planted_links("--log-file", path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o600)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path has a NUL byte"
        raise UsageError(f"--log-file {path}: cannot be written: {reason}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"--log-file {path}: is not a regular file")
    return fd
