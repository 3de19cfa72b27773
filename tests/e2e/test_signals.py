"""Signals, the terminal and the end of a run, on a real pseudo-terminal, as an interactive shell would have it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.terminals import FLAGS, TerminalSession, nono, seen_from_here, shell, state, wait_for
from tests.runs import TIMEOUT_S, Site

EXIT = 7  # the agent's status after USR1


@contextmanager
def start(site: Site, command: list[str], *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start nono with pipes; a test that fails leaves nothing running."""
    with site.start([*FLAGS, *flags], command) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def session(site: Site) -> Iterator[TerminalSession]:
    """`nono run` as all there is in a terminal's window: no shell watches it."""
    with TerminalSession(site, nono(*site.agent("signals"))) as made:
        yield made


@pytest.mark.parametrize(
    ("key", "name"), [(b"\x03", b"SIGINT"), (b"\x1c", b"SIGQUIT")], ids=["control-C", "control-backslash"]
)
def test_a_key_reaches_the_child_once(session: TerminalSession, key: bytes, name: bytes) -> None:
    session.expect(b"ready")
    session.type(key)
    session.expect(name)
    os.kill(session.pid, signal.SIGUSR1)
    assert session.expect(b"SIGUSR1").count(name) == 0
    assert session.wait() == EXIT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGWINCH"])
def test_a_signal_to_nono_reaches_the_child(session: TerminalSession, name: str) -> None:
    session.expect(b"ready")
    os.kill(session.pid, getattr(signal, name))
    session.expect(name.encode())
    os.kill(session.pid, signal.SIGUSR1)
    assert session.wait() == EXIT


def test_a_new_window_size_reaches_the_child(session: TerminalSession) -> None:
    session.expect(b"ready")
    session.resize(30, 100)
    session.expect(b"SIGWINCH")


def test_control_z_does_not_stop_what_nobody_could_continue(session: TerminalSession) -> None:
    session.expect(b"ready")
    session.type(b"\x1a")
    session.expect(b"SIGCONT")
    session.type(b"\x03")  # the child has the terminal again
    session.expect(b"SIGINT")
    os.kill(session.pid, signal.SIGUSR1)
    assert session.wait() == EXIT


def test_an_agent_that_stops_itself_goes_on_where_nobody_could_continue_it(site: Site) -> None:
    with TerminalSession(site, nono("/bin/sh", "-c", "kill -STOP $$; exit 7")) as session:
        assert session.wait() == EXIT


@pytest.mark.parametrize("script", ["{}", "sh -c {}"], ids=["a job", "a script"])
def test_control_z_stops_for_the_shell_and_fg_continues(site: Site, script: str) -> None:
    command = shlex.join(nono(*site.agent("signals")))
    with shell(site) as session:
        session.run(script.format(command if script == "{}" else shlex.quote(f"{command}; exit $?")))
        child = session.process(int(session.expect(b"\n").split()[-1]))
        session.type(b"\x1a")
        session.run("echo stopped-$?")
        session.expect(b"stopped-148")
        assert state(child) == "T"
        session.run("fg")
        session.expect(b"SIGCONT")
        session.type(b"\x03")
        session.expect(b"SIGINT")
        os.kill(child, signal.SIGUSR1)
        session.run("echo status-$?")
        session.expect(b"status-7")


def test_an_agent_that_stops_itself_stops_for_the_shell(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono("/bin/sh", "-c", "kill -STOP $$; exit 7")))
        session.run("echo stopped-$?")
        session.expect(b"stopped-148")
        session.run("fg; echo status-$?")
        session.expect(b"status-7")


@pytest.mark.parametrize("pipeline", ["echo x | {}", "{} | cat", "{}", "{} </dev/null", "{} >file"])
def test_the_agent_can_ask_on_the_terminal(site: Site, pipeline: str) -> None:
    """As git does for a password, whatever its standard streams are."""
    agent = nono("/bin/sh", "-c", 'echo question >/dev/tty; read a </dev/tty; echo "answer-$a-" >/dev/tty; exit 7')
    with shell(site) as session:
        session.run(pipeline.format(shlex.join(agent)))
        session.expect(b"question")
        session.type(b"yes\n")
        session.expect(b"answer-yes-")
        session.run("echo here-$((1 + 1))")
        session.expect(b"here-2")


def test_control_c_ends_a_pipeline_whose_agent_asks(site: Site) -> None:
    with shell(site) as session:
        session.run("echo x | " + shlex.join(nono("/bin/sh", "-c", "echo question; read a </dev/tty")))
        session.expect(b"question")
        session.type(b"\x03")
        session.run("echo status-$?")
        session.expect(b"status-130")


def test_the_terminal_is_not_left_to_a_group_that_is_gone(site: Site) -> None:
    """A program of the agent's took the terminal for a group of its own, and was killed with the rest."""
    code = """if True:
        import os, signal
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        ready, done = os.pipe()
        if os.fork() == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpgrp())
            os.write(done, b"x")
            signal.pause()
        os.read(ready, 1)
    """
    command = shlex.join(nono(sys.executable, "-I", "-c", code))
    with TerminalSession(site, ["/bin/sh", "-c", f"{command}; echo back; read x; echo got-$x; exit 7"]) as session:
        session.expect(b"back")
        session.type(b"hello\n")
        session.expect(b"got-hello")
        assert session.wait() == EXIT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_child_without_a_terminal(site: Site, name: str) -> None:
    with start(site, site.agent("signals")) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == name.encode() + b"\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(TIMEOUT_S) == EXIT


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_whole_group(site: Site, name: str) -> None:
    """Not only the child itself: a shell that handles the signal, and the program that it runs."""
    python = ["--read", sys.prefix, "--read", sys.base_prefix]
    script = 'trap "caught=yes" TERM HUP; trap : USR1; "$@"; echo "shell $caught"'
    with start(site, ["/bin/sh", "-c", script, "sh", *site.agent("signals")], *python) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == name.encode() + b"\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read().replace(b"SIGCONT\n", b"") == b"SIGUSR1\nshell yes\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_stopped_agent_is_ended(site: Site, name: str) -> None:
    with start(site, ["/bin/sh", "-c", "echo $$; kill -STOP $$"]) as process:
        assert process.stdout is not None
        child = seen_from_here(process.pid, int(process.stdout.readline()))
        wait_for(lambda: state(child) == "T")
        process.send_signal(getattr(signal, name))
        assert process.wait(TIMEOUT_S) == 128 + getattr(signal, name)


def test_an_agent_that_left_its_group_is_ended(site: Site) -> None:
    code = """if True:
        import os, signal
        left = os.fork()
        if left == 0:
            signal.pause()
        os.setpgid(left, left)
        os.setpgid(0, left)
        print("ready", flush=True)
        signal.pause()
    """
    with start(site, [sys.executable, "-I", "-c", code]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM


def test_an_agent_that_takes_no_term_is_ended_by_another(site: Site) -> None:
    script = "trap '' TERM HUP INT; echo $$; while :; do read x; done"
    with start(site, ["/bin/sh", "-c", script]) as process:
        assert process.stdout is not None
        agent = Path(f"/proc/{seen_from_here(process.pid, int(process.stdout.readline()))}")

        def ends() -> bool:
            if agent.exists():
                process.terminate()
            return not agent.exists()

        wait_for(ends)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGKILL


def test_children_that_were_there_before_are_not_the_runs(site: Site) -> None:
    script = 'sleep 600 </dev/null >/dev/null 2>&1 & echo $!; exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *nono("/bin/true")],
        cwd=site.work,
        env=site.environment,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    before = int(done.stdout)
    try:
        assert state(before) == "S"
    finally:
        os.kill(before, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)],
)
def test_the_exit_status_is_the_childs(site: Site, script: str, status: int) -> None:
    assert site.run(FLAGS, ["/bin/sh", "-c", script]).returncode == status


def test_standard_output_is_the_childs_alone(site: Site) -> None:
    done = site.run(["--allow-cwd", "--block-net"], ["/bin/sh", "-c", "printf out; printf err >&2"])
    assert done.stdout == "out"
    assert done.stderr.endswith("err")
    assert done.stderr.startswith("nono")


def test_nothing_that_the_child_started_is_left_running(site: Site) -> None:
    # The second one keeps standard output open: run() would not return while it lives.
    mark = f"600.{os.getpid()}"
    site.run(FLAGS, ["/bin/sh", "-c", f"setsid sleep {mark} >/dev/null 2>&1 & (sleep {mark} &) ; exit 0"])
    commands = (each / "cmdline" for each in Path("/proc").glob("[0-9]*"))
    assert not [each for each in commands if each.exists() and mark.encode() in each.read_bytes().split(b"\0")]
    assert list(site.tmp.iterdir()) == []
