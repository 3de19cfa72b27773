"""What a Terminal does with the user's terminal and the agent's; with real programs: tests/e2e/test_terminal.py.

Each test runs a piece of code in a process of its own, in a window (a pseudo-terminal that the test holds). The agent's
terminal is another one, whose other side that code holds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from nono.supervisor import terminal
from tests.supervisor.window import PREAMBLE, TIMEOUT_S, Window, in_window


def test_the_numbers_are_those_of_the_system() -> None:
    assert terminal._TIOCGWINSZ == termios.TIOCGWINSZ
    assert terminal._TIOCSWINSZ == termios.TIOCSWINSZ
    assert terminal._TIOCGPGRP == termios.TIOCGPGRP
    assert terminal._TCGETS == termios.TCGETS  # type: ignore[attr-defined]
    assert terminal._TCSETS == termios.TCSETS  # type: ignore[attr-defined]
    inputs = ("IGNBRK", "BRKINT", "PARMRK", "ISTRIP", "INLCR", "IGNCR", "ICRNL", "IXON", "IXANY", "IMAXBEL")
    assert sum(getattr(termios, name) for name in inputs) == terminal._RAW_IFLAG
    assert sum(getattr(termios, name) for name in ("ISIG", "ICANON", "ECHO", "ECHONL", "IEXTEN")) == terminal._RAW_LFLAG
    assert (terminal._RAW_OFLAG, terminal._CSIZE) == (termios.OPOST, termios.CSIZE)
    assert (terminal._CS8, terminal._PARENB) == (termios.CS8, termios.PARENB)
    assert (terminal._VEOF, terminal._VTIME, terminal._VMIN) == (termios.VEOF, termios.VTIME, termios.VMIN)
    assert terminal._ICANON == termios.ICANON


@pytest.mark.parametrize(
    ("redirect", "descriptors", "in_foreground"),
    [
        ("", (0, 1, 2), True),
        ("1>file", (0, 2), True),
        ("0</dev/null", (1, 2), False),
        ("0</dev/null 1>file", (2,), False),
        ("0<fifo", (1, 2), False),
        ("1>fifo", (0, 2), False),
        ("0</dev/null 1>file 2>file", (), False),
    ],
)
def test_what_becomes_the_agents(
    tmp_path: Path, redirect: str, descriptors: tuple[int, ...], in_foreground: bool
) -> None:
    window = f"""
    for word in {redirect.split()!r}:
        fd, path = int(word[0]), word[2:]
        if path == "fifo":
            ends = os.pipe()
            os.dup2(ends[0] if fd == 0 else ends[1], fd)
        else:
            os.dup2(os.open(path.replace("file", {str(tmp_path / "file")!r}), os.O_RDWR | os.O_CREAT), fd)
    if "2>file" not in {redirect.split()!r}:
        os.dup2(os.open("/dev/tty", os.O_RDWR), 2)
    with Terminal() as made:
        spec = made.spec
        assert (tuple(spec.descriptors) if spec else ()) == {descriptors!r}, spec
        assert (spec is not None and spec.in_foreground) == {in_foreground!r}, spec
    """
    in_window(tmp_path, window)


def test_a_terminal_that_is_not_the_users_stays_what_it_is(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    other, side = os.openpty()
    os.dup2(side, 1)
    with Terminal() as made:
        assert made.spec.descriptors == (0,)
    """,
    )


def test_a_terminal_that_controls_nobody_is_used_all_the_same(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fcntl.ioctl(0, termios.TIOCNOTTY)
    made, loop, agent = attached()
    assert made.spec.descriptors == (0, 1)
    assert is_raw(0) and not made.has_job_control and not made.interactive
    made.close()
    assert not is_raw(0)
    """,
    )


def test_without_a_terminal_there_is_none() -> None:
    code = """
    made, loop = Terminal(), Loop()
    assert made.spec is None and not made.interactive
    made.attach(loop, -1)
    assert not made.take() and not made.resume() and not made.resize()
    made.give_back()
    made.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_is_taken_and_given_back(tmp_path: Path) -> None:
    seen = in_window(
        tmp_path,
        """
    open_before = sorted(os.listdir("/proc/self/fd"))
    before = modes(0)
    made, loop, agent = attached()
    assert is_raw(0) and not modes(0)[1] & termios.OPOST
    assert all(os.get_blocking(fd) for fd in (0, 1, 2))
    guard = made._guard_pid
    assert os.getsid(guard) != os.getsid(0)
    os.write(agent, b"stop-")
    made.give_back()
    assert modes(0) == before and not os.path.exists(f"/proc/{guard}")
    assert made.resume() and is_raw(0)
    os.write(agent, b"last")
    made.close()
    made.close()
    assert modes(0) == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        os.close(agent)
        loop.close()
        assert sorted(os.listdir("/proc/self/fd")) == open_before
    else:
        raise AssertionError("a child is left")
    """,
    )
    assert seen == b"stop-last"


def test_the_guard_is_told_what_stty_says(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    made, loop, agent = attached()
    for modes_ in (made._raw, made._saved):
        fcntl.ioctl(0, termios.TCSETS, modes_)
        said = subprocess.run(["stty", "-g"], capture_output=True, text=True).stdout.strip()
        assert said == terminals._stty(modes_) + ":0" * 13, (said, terminals._stty(modes_))
    made.close()
    """,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_guard_gives_back_what_nobody_else_can(tmp_path: Path, number: int) -> None:
    code = f"""
    before = modes(0)
    child = os.fork()
    if child == 0:
        made, loop, agent = attached()
        assert is_raw(0)
        os.kill(os.getpid(), {int(number)})
    os.waitpid(child, 0)
    deadline = time.monotonic() + {TIMEOUT_S}
    while modes(0) != before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    """
    in_window(tmp_path, code)


def test_others_modes_are_left_alone(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    made, loop, agent = attached()
    others = modes(0)
    others[3] |= termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, others)
    made.close()
    assert modes(0) == others
    """,
    )


def test_keys_reach_the_agent_and_its_words_the_window(tmp_path: Path) -> None:
    def use(window: Window) -> None:
        window.expect(b"ready\r\n")
        os.write(window.fd, b"key\x03\x1a\n")
        window.expect(b"over")

    code = """
    made, loop, agent = attached()
    settings = modes(agent)
    settings[3] &= ~(termios.ISIG | termios.ECHO)
    termios.tcsetattr(agent, termios.TCSANOW, settings)
    os.write(agent, b"ready\\n")
    loop.register(agent, 1, lambda ready: loop.stop())
    loop.run()
    assert os.read(agent, 100) == b"key\\x03\\x1a\\n"
    os.write(agent, b"over")
    made.close()
    """
    in_window(tmp_path, code, use)


def test_a_window_that_takes_nothing_holds_nothing_up(tmp_path: Path) -> None:
    def use(window: Window) -> None:
        window.expect(b"x" * 200_000)

    code = """
    made, loop, agent = attached()
    os.set_blocking(agent, False)
    written = 0
    def write(ready):
        global written
        written += os.write(agent, b"x" * 65536)
    termios.tcflow(0, termios.TCOOFF)
    loop.register(agent, 2, write)
    run(loop, 0.3)
    assert 1000 < written < 400_000, written
    termios.tcflow(0, termios.TCOON)
    while written < 200_000:
        run(loop)
    loop.unregister(agent)
    made.close()
    """
    in_window(tmp_path, code, use)


def test_an_agent_that_reads_nothing_holds_nothing_up(tmp_path: Path) -> None:
    def use(window: Window) -> None:
        window.expect(b"ready")
        os.set_blocking(window.fd, False)
        written = 0
        try:
            while written < 1_000_000:
                written += os.write(window.fd, b"y" * 1000)
                time.sleep(0.0001)
        except BlockingIOError:
            pass
        assert written < 200_000
        window.expect(b"over")

    code = """
    made, loop, agent = attached()
    settings = modes(agent)
    settings[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(agent, termios.TCSANOW, settings)
    os.write(agent, b"ready")
    run(loop, 1)
    os.write(agent, b"over")
    made.close()
    """
    in_window(tmp_path, code, use)


def test_the_end_of_the_window_is_the_end_of_the_agents_terminal(tmp_path: Path) -> None:
    def use(window: Window) -> None:
        window.expect(b"ready")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, window.fd)
        os.close(null)

    code = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    made, loop, agent = attached()
    ends = []
    made.on_hang_up = lambda: (ends.append(1), loop.call_later(0.05, loop.stop))
    os.write(agent, b"ready")
    loop.run()
    assert ends == [1]
    try:
        assert os.read(agent, 1) == b""
    except OSError:
        pass
    made.give_back()
    made.close()
    assert ends == [1]
    """
    in_window(tmp_path, code, use)


def test_a_size_is_passed_on_once(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    made, loop, agent = attached()
    assert not made.resize()
    size = b"\\x1e\\0\\x64\\0\\0\\0\\0\\0"
    fcntl.ioctl(0, termios.TIOCSWINSZ, size)
    assert made.resize() and not made.resize()
    assert fcntl.ioctl(agent, termios.TIOCGWINSZ, bytes(8)) == size
    made.close()
    """,
    )


def test_it_is_not_taken_in_the_background(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    before = modes(0)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        made, loop, agent = attached()
        assert not made.spec.in_foreground and not made.in_front and not made.take()
        os.write(agent, b"heard")
        run(loop)
        made.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert modes(0) == before
    """,
    )


def test_no_key_is_read_before_the_agent_has_its_terminal(tmp_path: Path) -> None:
    """A ^C would be for the init, which does nothing with it."""

    def use(window: Window) -> None:
        window.expect(b"ready")
        os.write(window.fd, b"\x03")

    code = """
    made, loop = Terminal(), Loop()
    master, agent = os.openpty()
    ready, go = os.pipe()
    init = os.fork()
    if init == 0:
        os.setsid()
        fcntl.ioctl(agent, termios.TIOCSCTTY, 0)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pause()
        os.setpgid(child, child)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.write(agent, b"ready")
        os.read(ready, 1)
        os.tcsetpgrp(agent, child)
        os._exit(0 if os.waitpid(child, 0)[1] == signal.SIGINT else 1)
    made.attach(loop, master)
    made._listens_by = time.monotonic() + 60
    run(loop, 0.3)
    os.write(go, b"x")
    while (ended := os.waitpid(init, os.WNOHANG))[0] == 0:
        run(loop)
    assert ended[1] == 0
    made.close()
    """
    in_window(tmp_path, code, use)


def test_what_was_typed_before_is_read_as_it_was_meant(tmp_path: Path) -> None:
    def use(window: Window) -> None:
        os.write(window.fd, b"line\nrest\x04\x04part")
        window.expect(b"part")

    code = """
    while not fcntl.ioctl(0, termios.FIONREAD, bytes(4))[0]:
        time.sleep(0.01)
    made, loop, agent = attached()
    run(loop, 0.2)
    os.set_blocking(agent, False)
    assert [os.read(agent, 100) for _ in range(3)] == [b"line\\n", b"rest", b""]
    made.close()
    """
    in_window(tmp_path, code, use)


def test_a_window_that_takes_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    in_window(
        tmp_path,
        """
    before = modes(0)
    made, loop, agent = attached()
    termios.tcflow(0, termios.TCOOFF)
    os.write(agent, b"never" * 100)
    Terminal.drain.__defaults__ = (0.05,)
    made.close()
    assert modes(0) == before
    """,
    )


def test_who_goes_on_writing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    seen = in_window(
        tmp_path,
        """
    made, loop, agent = attached()
    os.write(agent, b"last")
    child = os.fork()
    if child == 0:
        while True:
            os.write(agent, b"x" * 4096)
    made.close()
    os.kill(child, signal.SIGKILL)
    """,
    )
    assert seen.startswith(b"last")


def test_in_a_pipeline_lines_end_as_the_agent_wants(tmp_path: Path) -> None:
    """A full-screen program moves down by LF; others, which write there too, mean CR LF."""
    in_window(
        tmp_path,
        """
    ends = os.pipe()
    os.dup2(ends[1], 1)
    os.dup2(0, 2)
    before = modes(0)
    made, loop, agent = attached()
    assert modes(0) == before
    assert made.take() and is_raw(0) and modes(0)[1] & termios.OPOST
    settings = modes(agent)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(agent, termios.TCSANOW, settings)
    os.write(agent, b"one")
    run(loop)
    assert is_raw(0) and not modes(0)[1] & termios.OPOST
    settings[1] |= termios.OPOST
    termios.tcsetattr(agent, termios.TCSANOW, settings)
    os.write(agent, b"two")
    run(loop)
    assert is_raw(0) and modes(0)[1] & termios.OPOST
    made.close()
    assert modes(0) == before
    """,
    )
