"""What was denied in a run: the footer, and the file of --diagnostics-json.

The footer has a line for each thing: what was tried, what denies it, the flag that would grant it.

    nono  denied      read ~/.aws/credentials  (protected: deny_credentials)
                        --bypass-protection ~/.aws/credentials --read-file ~/.aws/credentials

Standard output is the command's alone, so the JSON goes to a FILE or to a descriptor that the caller has opened
(`fd:3`). It is written when all is over. Nothing the agent can do in the file's directory leads the writing astray: the
directory is held open from before the start, the file is made anew there, and takes its name in one step.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from fcntl import F_DUPFD_CLOEXEC, F_GETFL, fcntl

from nono.cli.messages import refuse_planted_links
from nono.cli.render import printable, short
from nono.errors import UsageError
from nono.policy import verdict
from nono.supervisor import denials
from nono.supervisor.denials import Denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1
_SHOWN = 10
_FLAGS_WIDTH = 58  # what render.table has room for
_WHAT = 160  # characters
_KEYS = {"times": "count"}
_WHY = {
    verdict.PATH_NOT_GRANTED: "not granted",
    denials.HOST_NOT_ALLOWED: "not in the allowlist",
    denials.OUTSIDE_THE_WALL: "outside the wall",
    "endpoint_denied": "not among the granted requests",
    "address_denied": "a private address, granted by its own name only",
}


def rows(found: Sequence[Denial], home: str) -> list[tuple[str, str]]:
    """Return the rows of the footer; none where nothing was denied."""
    lines: list[tuple[str, str]] = []
    shown = _shown(found)
    for denial in shown:
        if denial.flag or not denial.detail:
            lines.append(("denied", f"{_what(denial, home)}  ({_why(denial)})"))
        else:
            lines.append(("denied", f"{_what(denial, home)}: {_sentence(denial.detail)}"))
        if denial.flag:
            lines += [("", f"  {flags}") for flags in _in_lines(printable(denial.flag))]
    if len(found) > len(shown):
        lines.append(("", f"{len(found) - len(shown)} more  (--diagnostics-json FILE has all)"))
    if any(denial.source == denials.OUTPUT for denial in shown):
        lines.append(("note", "the paths are those that the command's own output names"))
    return lines


def _shown(found: Sequence[Denial]) -> list[Denial]:
    """Choose those that the footer has room for: what the agent prints does not push out what nono knows itself."""
    known = [denial for denial in found if denial.source != denials.OUTPUT]
    told = [denial for denial in found if denial.source == denials.OUTPUT]
    room = max(_SHOWN - len(known), _SHOWN // 2)
    chosen = {*map(id, told[:room])}
    chosen.update(map(id, known[: _SHOWN - len(chosen)]))
    return [denial for denial in found if id(denial) in chosen]


def _in_lines(flags: str) -> list[str]:
    """Return flags as lines that need no folding, because a line that was folded cannot be copied."""
    if len(flags) <= _FLAGS_WIDTH:
        return [flags]
    first, *more = flags.split(" --")
    return [first, *(f"--{flag}" for flag in more)]


def _what(denial: Denial, home: str) -> str:
    text = printable(short(denial.what, home) if denial.kind == denials.PATH else denial.what)
    if len(text) > _WHAT:
        text = text[: _WHAT // 2] + "…" + text[-_WHAT // 2 :]
    times = f", {denial.times} times" if denial.times > 1 else ""
    return f"{denial.access} {text}{times}".strip()


def _why(denial: Denial) -> str:
    if denial.reason == verdict.SENSITIVE_PATH:
        return f"protected: {printable(denial.origin)}"
    if denial.reason == verdict.INSUFFICIENT_ACCESS:
        return "granted, but not to " + denial.access
    return _WHY.get(denial.reason, denial.reason.replace("_", " "))


def _sentence(text: str) -> str:
    """Return what nothing would grant, as the rest of a line."""
    return printable(text[:1].lower() + text[1:].rstrip("."))


class Report:
    """Where --diagnostics-json goes; made before the agent starts."""

    def __init__(self, where: str) -> None:
        """Raises UsageError for what cannot be written."""
        self._fd = self._directory_fd = -1
        self._name = ""
        if where == "-" or where in ("fd:0", "fd:1"):
            raise UsageError(
                f"--diagnostics-json {where}: standard output is the command's own; name a FILE, or fd:N for another "
                "open descriptor"
            )
        if where.startswith("fd:"):
            self._fd = _descriptor(where)
            return
        refuse_planted_links("--diagnostics-json", where)
        directory, self._name = os.path.split(os.path.abspath(where))
        try:
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._directory_fd):
                raise UsageError(f"--diagnostics-json {where}: its directory cannot be written")
            mode = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False).st_mode
        except FileNotFoundError as error:
            if self._directory_fd < 0:
                raise UsageError(f"--diagnostics-json {where}: {error.strerror}: {directory}") from None
            return
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no path has a NUL byte"
            raise UsageError(f"--diagnostics-json {where}: cannot be written: {reason}") from None
        if not stat.S_ISREG(mode):
            raise UsageError(f"--diagnostics-json {where}: is not a regular file; for a pipe, open it and name fd:N")

    def write(self, found: Sequence[Denial], exit_status: int, notice: Callable[[str], None]) -> None:
        """Write it, once. notice: told when that fails."""
        try:
            self._write(found, exit_status)
        except OSError as error:
            notice(f"--diagnostics-json could not be written: {error.strerror}")

    def _write(self, found: Sequence[Denial], exit_status: int) -> None:
        entries = [{_KEYS.get(name, name): value for name, value in denial._asdict().items()} for denial in found]
        text = json.dumps({"version": VERSION, "exit_status": exit_status, "denials": entries}, ensure_ascii=True)
        data = text.encode() + b"\n"
        if self._fd >= 0:
            _write_all(self._fd, data)
            return
        scratch = f".nono-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(scratch, flags, 0o600, dir_fd=self._directory_fd)
        try:
            try:
                _write_all(fd, data)
            finally:
                os.close(fd)
            os.rename(scratch, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except BaseException:
            os.unlink(scratch, dir_fd=self._directory_fd)
            raise


def _descriptor(where: str) -> int:
    number = where.removeprefix("fd:")
    if not (number.isascii() and number.isdigit() and len(number) < 8):
        raise UsageError(f"--diagnostics-json {where}: write fd: and the number of an open descriptor, e.g. fd:3")
    try:
        if fcntl(int(number), F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise UsageError(f"--diagnostics-json {where}: this descriptor is open for reading only")
        return fcntl(int(number), F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        raise UsageError(f"--diagnostics-json {where}: {error.strerror}; open it first, e.g. {number}>file") from None


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
