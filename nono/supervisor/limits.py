"""--memory, --max-processes, --timeout: what enforces them here, said before the run; what they did, said after it.

Two things enforce, and the first that is to be had is taken, for each limit:

- A control group (nono/kernel/cgroup.py): memory and processes of all that the agent starts, together. Swap is off in
  it. When the memory is used up the kernel kills all of it at once (memory.oom.group), so that no half of an agent
  goes on: status 137, and `outcome` says why.
- Resource limits (setrlimit(2)), which are weaker, and `sentences` says how. Memory is RLIMIT_DATA: each process by
  itself, its private writable memory. (RLIMIT_AS would count address space too, of which V8 and Go reserve far more
  than they use.) Processes are RLIMIT_NPROC, for which the kernel counts the processes and threads of one user in one
  user namespace (Linux 5.14): exact, where the run has its own. Without one the user's other programs count as well,
  so they are added to the limit. The kernel exempts root, whatever namespace he is in: then --max-processes is refused.

Time is the supervisor's own: `Deadline` sends TERM, and KILL to who does not heed it, and has the status of timeout(1).

Both count threads as processes, as the kernel does. The processes of nono do not count: the supervisor is outside, and
one more is allowed to RLIMIT_NPROC for the init of the run, which it counts.

The agent must not write to the cgroup file system, whatever it is granted: it could leave its group. See `denies`.
"""

from __future__ import annotations

import os
import resource
from signal import SIGCONT, SIGTERM
from time import monotonic

from nono.errors import UsageError
from nono.kernel import cgroup
from nono.policy.capabilities import WRITE, Limits, PathDeny

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from nono.loop import Loop, Timer

TIMED_OUT = 124  # timeout(1)
_GRACE_S = 5.0
_KILLED_S = 2.0  # after which a kill that went by way of the init has not arrived
_LONGEST_TIMER_S = 86400.0  # epoll_wait(2) counts milliseconds in an int: 24 days
_COUNTS_BY_NAMESPACE = (5, 14)  # Linux: ucounts of RLIMIT_NPROC
_UNITS = {1 << 40: "TiB", 1 << 30: "GiB", 1 << 20: "MiB", 1 << 10: "KiB"}
_MEMORY, _PIDS = "memory", "pids"
SCOPE = "systemd-run --user --scope"  # the command that runs what follows in a control group that is delegated


class Limiter:
    """What enforces the memory and the number of processes of one run; a context manager.

    procs_fds: for spawn. denies: what the agent must not write to.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._group: cgroup.Cgroup | None = None
        self._grouped: frozenset[str] = frozenset()  # the controllers of the group
        self.procs_fds: tuple[int, ...] = ()
        self.denies: tuple[PathDeny, ...] = ()

    def __enter__(self) -> Self:
        """Make a control group, if there is one to be had."""
        wanted = _settings(self._limits)
        attempts = [wanted] if len(wanted) < 2 else [wanted, *({name: wanted[name]} for name in wanted)]
        for settings in attempts:  # one of two controllers is better than none: memory can be switched off at boot
            self._group = cgroup.make(settings) if settings else None
            if self._group is not None:
                self._grouped = frozenset(settings)
                self.procs_fds = (self._group.procs_fd,)
                self.denies = tuple(
                    PathDeny(os.path.realpath(point), "limits of this run, read-only", WRITE)
                    for point in cgroup.mount_points()
                )
                break
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill what is left in the group."""
        if self._group is not None:
            self._group.close()

    def rlimits(self, *, own_user_namespace: bool) -> tuple[tuple[int, int, int], ...]:
        """Return (resource, soft, hard) for what no control group limits.

        own_user_namespace: whether the run gets one (CLONE_NEWUSER).
        Raises UsageError when a limit cannot be enforced.
        """
        found = []
        if self._falls_back(_MEMORY, self._limits.memory_bytes):
            found.append(_lowered(resource.RLIMIT_DATA, self._limits.memory_bytes))
        if self._falls_back(_PIDS, self._limits.max_processes):
            if os.geteuid() == 0 and _is_exempt():
                raise UsageError(
                    "--max-processes cannot be enforced here: the kernel does not count the processes of root "
                    "(RLIMIT_NPROC), and no control group is delegated to nono (cgroup v2 with the controller 'pids'). "
                    "Run nono as an ordinary user, or leave --max-processes out"
                )
            most = self._limits.max_processes + 1
            if not _counts_alone(own_user_namespace):
                most += _count_tasks(os.getuid())
            found.append(_lowered(resource.RLIMIT_NPROC, most))
        return tuple(found)

    def sentences(self, *, own_user_namespace: bool) -> tuple[str, ...]:
        """Return what is limited and how, a line each, for the summary."""
        limits, lines = self._limits, []
        falls_back = self._falls_back(_MEMORY, limits.memory_bytes)
        if limits.memory_bytes:
            how = "in each process, shared memory aside" if falls_back else "for all together"
            lines.append(f"{_size(limits.memory_bytes)} memory {how}  (--memory)")
        if limits.max_processes:
            less = ""
            if self._falls_back(_PIDS, limits.max_processes) and not _counts_alone(own_user_namespace):
                falls_back = True
                less = ", less what you start meanwhile"
            lines.append(f"{_processes(limits.max_processes)}{less}  (--max-processes)")
        if limits.timeout_s:
            lines.append(f"{_duration(limits.timeout_s)}  (--timeout)")
        if falls_back:
            has_one = cgroup.mount_points() and has_user_manager()
            hint = f" ({SCOPE} has one)" if has_one else ", so nothing limits all together"
            lines.append(f"no control group is delegated here{hint}")
        return tuple(lines)

    def outcome(self) -> tuple[str, ...]:
        """Return what the limits did, once the agent has ended and before this is left: sentences for the user."""
        if self._group is None:
            return ()
        limits, sentences = self._limits, []
        memory = self._group.counts("memory.events") if _MEMORY in self._grouped else {}
        pids = self._group.counts("pids.events") if _PIDS in self._grouped else {}
        if memory is None or pids is None:
            sentences.append("the limits did not hold to the end: the run's control group was changed from outside")
        if memory and memory.get("oom_kill"):
            sentences.append(
                f"the agent used up its {_size(limits.memory_bytes)} of memory, so the kernel killed it and all that "
                "it had started; a greater --memory lets it have more"
            )
        if pids and (refused := pids.get("max", 0)):
            times = "once" if refused == 1 else f"{refused} times"
            sentences.append(
                f"the agent could not start a process or thread {times}: it had {limits.max_processes} already; a "
                "greater --max-processes lets it have more"
            )
        return tuple(sentences)

    def _falls_back(self, controller: str, limit: int) -> bool:
        return bool(limit) and controller not in self._grouped


def has_user_manager(root: str = "/") -> bool:
    """Whether systemd runs services of this user, and so has control groups to give. root: where /run is."""
    return os.path.exists(os.path.join(root, f"run/user/{os.getuid()}/systemd/private"))


class Deadline:
    """--timeout: TERM to the agent when its time is over, KILL when it has not ended soon after.

    send: sends a signal to the agent's process group. kill: ends the agent; asked again, by other means. notice: tells
    the user a sentence.
    """

    def __init__(
        self,
        loop: Loop,
        timeout_s: float,
        send: Callable[[int], None],
        kill: Callable[[], None],
        notice: Callable[[str], None],
    ) -> None:
        self.expired = False
        self._loop = loop
        self._timeout_s = timeout_s
        self._end = monotonic() + timeout_s
        self._send = send
        self._kill = kill
        self._notice = notice
        self._timer: Timer
        self._wait()

    def cancel(self) -> None:
        """The agent has ended."""
        self._timer.cancel()

    def exit_status(self, status: int) -> int:
        """Return the run's exit status, for the agent's."""
        return TIMED_OUT if self.expired else status

    def _wait(self) -> None:
        left = self._end - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(min(left, _LONGEST_TIMER_S), self._wait)
            return
        self.expired = True
        self._notice(f"the agent's time is over: {_duration(self._timeout_s)}  (--timeout)")
        self._timer = self._loop.call_later(_GRACE_S, self._end_it)
        self._send(SIGTERM)
        self._send(SIGCONT)  # a stopped process takes no other signal

    def _end_it(self) -> None:
        self._notice(f"the agent did not end within {_duration(_GRACE_S)}, so it is killed")
        self._timer = self._loop.call_later(_KILLED_S, self._kill)
        self._kill()


def _settings(limits: Limits) -> dict[str, dict[str, str]]:
    """Return, for each controller that is needed, what is written to the files of the group."""
    settings = {}
    if limits.memory_bytes:
        # Without CONFIG_SWAP, or with swapaccount=0, there is no memory.swap.max.
        settings[_MEMORY] = {
            "memory.max": str(limits.memory_bytes),
            "memory.swap.max?": "0",
            "memory.oom.group": "1",
        }
    if limits.max_processes:
        settings[_PIDS] = {"pids.max": str(limits.max_processes)}
    return settings


def _lowered(which: int, limit: int) -> tuple[int, int, int]:
    """Return the limit, or what this process has where that is less: nobody can raise it."""
    _, hard = resource.getrlimit(which)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    return which, limit, limit


def _counts_alone(own_user_namespace: bool) -> bool:
    """Whether RLIMIT_NPROC counts the processes of the run only."""
    major, minor = os.uname().release.split(".")[:2]
    version = int(major), int(minor.partition("-")[0].rstrip("+"))  # 6.1-rc1, 5.13+
    return own_user_namespace and version >= _COUNTS_BY_NAMESPACE


def _is_exempt() -> bool:
    """Whether the kernel lets this process fork beyond RLIMIT_NPROC: a child tries.

    It does so for root, but not for the root of a user namespace whom the kernel knows as another user.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            if grandchild := os.fork():
                os.waitpid(grandchild, 0)
        except BlockingIOError:
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] != 0


def _count_tasks(uid: int) -> int:
    """Return how many processes and threads of this user can be seen."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/status", "rb") as file:
                    fields = dict(line.split(b":", 1) for line in file.read().splitlines())
            except OSError:
                continue  # gone meanwhile
            if int(fields[b"Uid"].split()[0]) == uid:
                count += int(fields[b"Threads"])
    return count


def _size(size_bytes: int) -> str:
    unit = max((unit for unit in _UNITS if size_bytes >= unit), default=1)
    return f"{size_bytes / unit:.4g} {_UNITS.get(unit, 'bytes')}"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes and threads"


def _duration(seconds: float) -> str:
    """90.5 -> 1 min 30.5 s"""
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{count:.6g} {unit}" for count, unit in parts if count)
