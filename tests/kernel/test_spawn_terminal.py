"""The agent's own terminal: what it looks like, whose it is, and that nothing here keeps it open."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nono.kernel.spawn import COMMAND_FOREGROUND, EVENT_EXITED, EVENT_STOPPED, Child, TerminalSpec, send_command
from tests.kernel import inside
from tests.kernel.inside import EVERYWHERE, event, failure, start

SIZE = struct.pack("HHHH", 33, 101, 7, 9)  # struct winsize
LFLAG, CC = 3, 6  # of termios.tcgetattr
# Python's own handler is called late where the signal comes just before a system call.
DIES_OF_KEYS = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL)"


@pytest.fixture
def users() -> Iterator[int]:
    """The user's terminal: no echo, another key for the interrupt, a size of its own."""
    ours, users = os.openpty()
    fcntl.ioctl(users, termios.TIOCSWINSZ, SIZE)
    attributes = termios.tcgetattr(users)
    attributes[LFLAG] &= ~termios.ECHO
    attributes[CC][termios.VINTR] = b"\x07"
    termios.tcsetattr(users, termios.TCSANOW, attributes)
    yield users
    os.close(ours)
    os.close(users)


@contextmanager
def on_terminal(users: int, script: str, namespaces: int, in_foreground: bool = True) -> Iterator[Child]:
    argv = (sys.executable, "-I", "-S", "-c", script)
    with inside.running(*argv, namespaces=namespaces, terminal=TerminalSpec(users, (0, 1, 2), in_foreground)) as child:
        yield child


def shown(child: Child, until: str = "", wait_s: float = 20) -> str:
    """What the terminal shows until nobody has it open any more, or something is shown."""
    text = ""
    while not (until and until in text):
        assert select.select([child.terminal_fd], [], [], wait_s)[0], f"nothing after {text!r}"
        try:
            text += os.read(child.terminal_fd, 65536).decode()
        except OSError:  # EIO
            return text
    return text


def give_foreground(child: Child, to_agent: bool) -> None:
    send_command(child.control_fd, COMMAND_FOREGROUND, to_agent)


def foreground_becomes(child: Child, group: int, wait_s: float = 20) -> bool:
    deadline = time.monotonic() + wait_s
    while os.tcgetpgrp(child.terminal_fd) != group and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.tcgetpgrp(child.terminal_fd) == group


@EVERYWHERE
def test_is_a_terminal_of_its_own_that_looks_like_the_users(users: int, namespaces: int) -> None:
    script = (
        "import os, termios\n"
        "print([os.isatty(fd) for fd in (0, 1, 2)], os.get_terminal_size(0))\n"
        "attributes = termios.tcgetattr(0)\n"
        "print(bool(attributes[3] & termios.ECHO), attributes[6][termios.VINTR])\n"
        f"print(os.fstat(0).st_rdev == os.fstat(1).st_rdev == os.fstat(2).st_rdev != {os.fstat(users).st_rdev})\n"
    )
    before = termios.tcgetattr(users)
    with on_terminal(users, script, namespaces) as child:
        assert not os.get_inheritable(child.terminal_fd)
        assert not os.get_blocking(child.terminal_fd)
        assert shown(child).splitlines() == [
            "[True, True, True] os.terminal_size(columns=101, lines=33)",
            "False b'\\x07'",
            "True",
        ]
        assert event(child) == (EVENT_EXITED, 0)
    assert termios.tcgetattr(users) == before
    assert fcntl.ioctl(users, termios.TIOCGWINSZ, bytes(8)) == SIZE


@EVERYWHERE
def test_is_the_controlling_terminal_and_the_agent_has_its_foreground(users: int, namespaces: int) -> None:
    script = (
        "import os\n"
        "tty = os.open('/dev/tty', os.O_RDWR)\n"
        "print(os.tcgetpgrp(tty) == os.getpgrp() == os.getpid())\n"
        "print(os.getsid(0) == os.getppid() != os.getpid())\n"
    )
    with on_terminal(users, script, namespaces) as child:
        assert shown(child).splitlines() == ["True", "True"]
        assert event(child) == (EVENT_EXITED, 0)


@EVERYWHERE
def test_keys_reach_the_agent(users: int, namespaces: int) -> None:
    with on_terminal(users, f"{DIES_OF_KEYS}; print('ready', flush=True); time.sleep(600)", namespaces) as child:
        shown(child, "ready")
        os.write(child.terminal_fd, b"\x1a")  # ^Z
        assert event(child) == (EVENT_STOPPED, signal.SIGTSTP)
        inside.send_signal(child, signal.SIGCONT)
        os.write(child.terminal_fd, b"\x07")  # what the user's has for ^C
        assert event(child) == (EVENT_EXITED, signal.SIGINT)


@EVERYWHERE
@pytest.mark.parametrize("descriptors", [(0,), (1, 2), (0, 2), ()])
def test_only_the_chosen_descriptors_become_it(users: int, namespaces: int, descriptors: tuple[int, ...]) -> None:
    script = "import os; print([fd for fd in (0, 1, 2) if os.isatty(fd)])"
    saved = os.dup(0)
    with open("/dev/null") as null:
        os.dup2(null.fileno(), 0)
    try:
        with inside.standard_output() as output:
            argv = (sys.executable, "-I", "-S", "-c", script)
            child = start(*argv, namespaces=namespaces, terminal=TerminalSpec(users, descriptors))
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    text = shown(child)
    piped = inside.read_all(output)
    assert (text if 1 in descriptors else piped).split("\n")[0].strip() == str(list(descriptors))
    assert (piped if 1 in descriptors else text) == ""
    assert inside.wait(child) == 0


@EVERYWHERE
def test_the_foreground_is_given_and_taken_by_the_supervisor(users: int, namespaces: int) -> None:
    """In the background the agent stops when it reads."""
    script = f"{DIES_OF_KEYS}; print(input(), flush=True); time.sleep(600)"
    with on_terminal(users, script, namespaces, in_foreground=False) as child:
        assert os.tcgetpgrp(child.terminal_fd) == child.pid  # the init's group
        assert event(child) == (EVENT_STOPPED, signal.SIGTTIN)
        give_foreground(child, True)
        inside.send_signal(child, signal.SIGCONT)
        os.write(child.terminal_fd, b"words\n")
        assert "words" in shown(child, "words\r\n")
        agent = os.tcgetpgrp(child.terminal_fd)
        assert agent != child.pid
        give_foreground(child, False)
        assert foreground_becomes(child, child.pid)
        give_foreground(child, True)
        assert foreground_becomes(child, agent)
        os.write(child.terminal_fd, b"\x07")
        assert event(child) == (EVENT_EXITED, signal.SIGINT)


@EVERYWHERE
def test_what_the_agent_leaves_keeps_the_terminal_and_nothing_else_does(users: int, namespaces: int) -> None:
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "if os.fork() == 0: print('still here', flush=True); time.sleep(0.5); print('gone', flush=True)\n"
    )
    with on_terminal(users, script, namespaces) as child:
        assert event(child) == (EVENT_EXITED, 0)
        began = time.monotonic()
        assert shown(child).split("\r\n") == ["still here", "gone", ""]
        assert time.monotonic() - began < 15


@EVERYWHERE
def test_the_end_of_our_side_hangs_up(users: int, namespaces: int) -> None:
    """The agent reads an end, or EIO, then: neither the init nor the agent has our side, too."""
    script = "import os\nos.write(1, b'ready')\ntry: os.read(0, 1)\nexcept OSError: pass\nos._exit(5)"
    with on_terminal(users, script, namespaces) as child:
        shown(child, "ready")
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, child.terminal_fd)
        os.close(null)
        assert event(child) == (EVENT_EXITED, 5 << 8)


@EVERYWHERE
def test_no_terminal_to_be_had(users: int, namespaces: int) -> None:
    for multiplexer, answer in (("/nonexistent/ptmx", errno.ENOENT), ("/dev/null", errno.ENOTTY)):
        error = failure("/bin/true", namespaces=namespaces, terminal=TerminalSpec(users, (0,)), multiplexer=multiplexer)
        assert (error.step, error.errno) == ("terminal", answer)


@EVERYWHERE
def test_a_failed_start_leaves_no_terminal(users: int, namespaces: int) -> None:
    error = failure("/nonexistent", namespaces=namespaces, terminal=TerminalSpec(users, (0, 1, 2)))
    assert error.step == "exec"
