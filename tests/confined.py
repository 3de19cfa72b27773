"""Run a program twice: as anybody would, and behind the wall that a set of grants comes to.

The wall is the real one, put together as the session does it (expand, plan, ruleset, spawn), by a forked process that
plays the supervisor. Nothing here knows the command line or the proxy.

`check` runs an attack both ways: it has to succeed without the sandbox, so that a broken attack never passes for a
defence. Programs of tests/attacks print one word: LEAK, or the errno that stopped them. A program that a signal ended
has the signal's name as its answer.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from nono.kernel import landlock
from nono.kernel.spawn import EVENT_EXITED, Child, TerminalSpec, prepare, receive_event
from nono.policy.capabilities import (
    NETWORK_PROXY,
    READ,
    SANDBOX_NAMESPACE,
    SANDBOX_NOTIFY,
    WRITE,
    CapabilitySet,
    PathDeny,
    PathGrant,
)
from nono.policy.groups import system_grants
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan, make_plan, walls_to_try
from nono.supervisor.mediation import mediate
from tests.users import become

ATTACKS = Path(__file__).parent / "attacks"
SUPERVISOR = "{supervisor}"  # in an argument: the pid of the process that started the program
ROOT, ANYBODY = 0, 12345
# Who attacks: both when the tests run as root.
USERS = (ROOT, ANYBODY) if os.geteuid() == ROOT else (os.geteuid(),)
TIMEOUT_S = 20
# Which wall is tested; ci/test runs the promises once behind each.
WALLS = {
    "namespace": walls_to_try(SANDBOX_NAMESPACE)[0],
    "bare": walls_to_try(SANDBOX_NAMESPACE)[1],  # namespaces without mounts
    "notify": walls_to_try(SANDBOX_NOTIFY)[0],
}
TESTED = WALLS[os.environ.get("NONO_TEST_SANDBOX", "namespace")]
# The kernel itself refuses, or does not have what is attacked: then nothing can be shown without the sandbox.
REFUSED_BY_THE_KERNEL = {
    "EPERM",
    "EACCES",
    "ENOSYS",
    "EAFNOSUPPORT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "ENODEV",
    "EIO",
    "ENOSPC",
}


class Outcome(NamedTuple):
    """status: exit status, or minus the signal. output: what was printed, without the last line end."""

    status: int
    output: str

    @property
    def answer(self) -> str:
        return signal.Signals(-self.status).name if self.status < 0 else self.output.rpartition("\n")[2]


class Wall(NamedTuple):
    """What is granted on top of the system's groups. abi: pretend to run on a kernel with an older Landlock."""

    grants: tuple[PathGrant, ...] = ()
    denies: tuple[PathDeny, ...] = ()
    network: str = NETWORK_PROXY
    home: str = "/nonexistent"
    abi: int | None = None
    listen_port: int | None = None
    unix_sockets: tuple[str, ...] = ()
    own_sockets: bool = False

    def with_access(self, path: Path | str, access: int, *, is_file: bool = False) -> Wall:
        return self._replace(grants=(*self.grants, PathGrant(str(path), access, is_file, "--allow")))

    def capabilities(self, program: str) -> CapabilitySet:
        own = PathGrant(program, 1, True, "the command", optional=True)
        grants = (*self.grants, own, *system_grants(self.home, f"{self.home}/.config"))
        sockets = {"unix_sockets": self.unix_sockets, "own_sockets": self.own_sockets}
        return CapabilitySet(grants, self.denies, self.network, (), "/", **sockets)


class Place:
    """A directory that every user can reach (pytest's own is closed to others). `attack` is the compiled program.

    Not below /tmp, which the wall hides: what is attacked must be there.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/var/tmp"))
        self.path.chmod(0o755)
        self.attack = str(self.path / "attack")
        sources = sorted(map(str, ATTACKS.glob("*.c")))
        subprocess.run(
            ["cc", "-O0", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", self.attack, *sources], check=True
        )

    def directory(self, owner: int) -> Path:
        """Return a new, empty directory that belongs to `owner`."""
        path = Path(tempfile.mkdtemp(dir=self.path))
        os.chown(path, owner, owner)
        return path

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def write(path: Path, content: str, owner: int) -> Path:
    """Make a private file of `owner`, and the directories that lead to it."""
    for directory in (*reversed(path.parents), path.parent):
        if not directory.exists():
            directory.mkdir(mode=0o700)
            os.chown(directory, owner, owner)
    path.write_text(content)
    path.chmod(0o600)
    os.chown(path, owner, owner)
    return path


def run(
    argv: Sequence[str],
    wall: Wall | None,
    *,
    user: int = USERS[-1],
    workdir: str = "/",
    environment: dict[str, str] | None = None,
    stdin: int | None = None,
    inherit: Iterable[int] = (),
    terminal: int | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Run `argv` as `user`, without a sandbox when `wall` is None.

    inherit: fds that are open without close-on-exec when the program starts. terminal: a pty that becomes its standard
    input and controlling terminal. on_line: called with each line as it comes.
    """
    output, output_end = os.pipe()
    status, status_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(output)
        try:
            _supervise(argv, wall, user, workdir, environment, stdin, inherit, terminal, output_end, status_end)
        except BaseException as error:  # noqa: BLE001 (this is a forked copy of pytest: nothing may get out)
            os.write(output_end, f"{type(error).__name__}: {error}".encode())
            os.write(status_end, b"255")
        finally:
            os._exit(0)
    os.close(output_end)
    os.close(status_end)
    try:
        text = _collect(output, on_line)
        return Outcome(int(os.read(status, 16) or b"-9"), text.rstrip("\n"))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(output)
        os.close(status)


def _supervise(
    argv: Sequence[str],
    wall: Wall | None,
    user: int,
    workdir: str,
    environment: dict[str, str] | None,
    stdin: int | None,
    inherit: Iterable[int],
    terminal: int | None,
    output_end: int,
    status_end: int,
) -> NoReturn:
    if terminal is not None:
        os.setsid()
        stdin = os.open(os.ttyname(terminal), os.O_RDWR)  # the first terminal of a session becomes its own
    os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
    os.dup2(output_end, 1)
    os.dup2(output_end, 2)
    for fd in inherit:
        os.set_inheritable(fd, True)
    become(user)
    argv = [argument.replace(SUPERVISOR, str(os.getpid())) for argument in argv]
    environment = environment or {"PATH": "/usr/bin:/bin"}
    if wall is None:
        child = os.fork()
        if child == 0:
            os.chdir(workdir)
            os.execve(argv[0], argv, environment)
        _, wait_status = os.waitpid(child, 0)
    else:
        scratch = tempfile.mkdtemp(prefix="nono-test-")
        try:
            wait_status = _wait(_spawn(argv, wall, workdir, environment, scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    os.write(status_end, str(os.waitstatus_to_exitcode(wait_status)).encode())
    os._exit(0)


def _spawn(argv: Sequence[str], wall: Wall, workdir: str, environment: dict[str, str], scratch: str) -> Child:
    own = PathGrant(scratch, READ | WRITE, False, "temporary directory")
    capabilities = wall.capabilities(argv[0])
    capabilities = capabilities._replace(grants=(*capabilities.grants, own))
    plan = _plan(capabilities, wall, scratch, workdir)
    ports = (wall.listen_port,) if plan.proxied and wall.listen_port is not None else ()
    terminal = TerminalSpec(0, (0,)) if os.isatty(0) else None
    multiplexer = "/dev/pts/ptmx" if plan.own_terminals else "/dev/ptmx"
    prepared = prepare(
        namespaces=plan.namespaces, listen_ports=ports, mounts=plan.mounts, terminal=terminal, multiplexer=multiplexer
    )
    ruleset = filesystem.open_ruleset(plan)
    child = prepared.start(
        path=os.fsencode(argv[0]),
        argv=[os.fsencode(argument) for argument in argv],
        envp=[os.fsencode(f"{name}={value}") for name, value in environment.items()],
        workdir=os.fsencode(workdir),
        ruleset_fd=ruleset,
        seccomp_filter=plan.seccomp_filter,
        filter_flags=plan.filter_flags,
        late_rules=plan.late_rules,
        terminal_access=plan.terminal_access,
    )
    if child.notify_fd >= 0:
        expansion = filesystem.expand(capabilities)
        mediate(child.notify_fd, plan, expansion, capabilities, wall.listen_port or 0, lambda sentence: None)
    for listener_fd in child.listener_fds:
        _answer_one(listener_fd, child.control_fd)
    return child


def _plan(capabilities: CapabilitySet, wall: Wall, scratch: str, workdir: str) -> Plan:
    return make_plan(
        filesystem.expand(capabilities, mounts=TESTED.mounts),
        wall.abi or landlock.abi(),
        os.uname().machine,
        TESTED,
        temporary_directory=scratch,
        workdir=workdir,
    )


def _wait(child: Child) -> int:
    """Wait for the agent's end; return its wait status."""
    while select.select([child.control_fd, child.pidfd], [], []) and (said := receive_event(child.control_fd)):
        kind, value = said
        if kind == EVENT_EXITED:
            return int(value)
    return signal.SIGKILL


def _answer_one(listener_fd: int, control_fd: int) -> None:
    """Play the proxy for one connection, if one comes before the child ends."""
    if listener_fd in select.select([listener_fd, control_fd], [], [], TIMEOUT_S)[0]:
        with socket.socket(fileno=listener_fd) as listener, listener.accept()[0] as connection:
            connection.settimeout(2)
            connection.recv(64)
            connection.send(b"answer")


def _collect(fd: int, on_line: Callable[[str], None] | None) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    data, seen = b"", 0
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(fd, 65536)
        if not chunk:
            return data.decode(errors="replace")
        data += chunk
        while on_line is not None and (end := data.find(b"\n", seen)) >= 0:
            on_line(data[seen:end].decode(errors="replace"))
            seen = end + 1
    raise TimeoutError(f"no end after {TIMEOUT_S} s; so far: {data!r}")


def prove(attack: list[str], **how: object) -> str:
    """Run the attack without a sandbox; return why it could not be shown there, "" when it leaked."""
    free = run(attack, None, **how)  # type: ignore[arg-type]
    if free.answer == "LEAK":
        return ""
    assert free.answer in REFUSED_BY_THE_KERNEL, f"the attack itself is broken: {free}"
    return f"without the sandbox the kernel itself says {free.answer} here"


def stopped(expected: set[str]) -> set[str]:
    """Return `expected`, and what else stops it where there are mounts: what Landlock denies is read-only as well."""
    return {*expected, "EROFS"} if TESTED.mounts and "EACCES" in expected else expected


def check(attack: list[str], wall: Wall, expected: set[str], **how: object) -> None:
    unproven = prove(attack, **how)
    confined = run(attack, wall, **how)  # type: ignore[arg-type]
    assert confined.answer in stopped(expected), confined
    if unproven:
        pytest.skip(f"{attack[1]} was stopped, but {unproven}")
