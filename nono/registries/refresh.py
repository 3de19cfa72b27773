"""The supervisor's end of the helper that asks the stale managers beside the child's start.

A process of its own, because running programs from this one would take time from the proxy's loop, and because the job
reaps every child. Its answers arrive on a pipe, a line each, and go to the running proxy's allowlist. Whatever goes
wrong here, the run goes on without those hosts. The helper ends when its other pipe does, so it never outlives the
supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable

import nono
from nono.errors import PolicyError
from nono.loop import READ, Loop
from nono.registries.group import Group

Add = Callable[[Iterable[str]], None]

_MAX_LINE = 1 << 18
# -I: no user site, no working directory; nono from where this one is, after the standard library.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from nono.registries import helper; helper.main()"


class Refresh:
    """Asks from `start` to the last answer, or until `close`; hosts go to `add`, in the loop's thread."""

    def __init__(self, loop: Loop, add: Add, over: Callable[[], None]) -> None:
        """over: called when no more hosts will come, perhaps more than once."""
        self._loop = loop
        self._add = add
        self._over = over
        self._unread = b""
        self._request_fd = self._answer_fd = -1

    def start(self, group: Group) -> None:
        """Start the helper; where that does not work, nothing is asked."""
        tools = [[tool.manager.name, tool.path, tool.environment, tool.settings, tool.key] for tool in group.stale]
        request = json.dumps({"state": group.state, "closed": group.closed, "tools": tools}).encode() + b"\n"
        theirs: list[int] = []
        try:
            request_fd, self._request_fd = os.pipe()
            theirs.append(request_fd)
            self._answer_fd, answer_fd = os.pipe()
            theirs.append(answer_fd)
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-c", _PROGRAM, os.path.dirname(next(iter(nono.__path__)))],
                {"LANG": "C.UTF-8"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, request_fd, 0),
                    (os.POSIX_SPAWN_DUP2, answer_fd, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,  # ^C is not for it
                setsigdef=[signal.SIGTTOU],
            )
            os.set_blocking(self._request_fd, False)  # a request that does not fit into the pipe is not made
            if os.write(self._request_fd, request) == len(request):
                self._loop.register(self._answer_fd, READ, self._readable)
            else:
                self._close_fds()
        except OSError:
            self._close_fds()
        finally:
            for fd in theirs:
                os.close(fd)

    def _readable(self, events: int) -> None:
        data = os.read(self._answer_fd, 65536) if self._answer_fd >= 0 else b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            try:
                self._add([str(entry) for entry in json.loads(line)])
            except (ValueError, TypeError, PolicyError):
                pass  # not a line of ours
        if not data or len(self._unread) > _MAX_LINE:
            self.close()

    def close(self) -> None:
        """Let the helper end; idempotent."""
        if self._answer_fd >= 0:
            self._loop.unregister(self._answer_fd)
        self._close_fds()

    def _close_fds(self) -> None:
        for fd in (self._request_fd, self._answer_fd):
            if fd >= 0:
                os.close(fd)
        self._request_fd = self._answer_fd = -1
        self._over()
