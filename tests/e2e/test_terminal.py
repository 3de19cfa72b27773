"""Programs that use the terminal, run as a user runs them: on a real pseudo-terminal, from a real shell."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.terminals import FLAGS, TerminalSession, nono, shell, state, wait_for
from tests.runs import Site, require_command, use_if_present

READY = "echo ready; "


def in_script(site: Site, *command: str) -> TerminalSession:
    """Run nono from a script, which leaves the terminal's modes as they are; then it says "over" and waits."""
    script = '"$@"; echo "over-$?"; read x'
    return TerminalSession(site, ["/bin/sh", "-c", script, "sh", *nono(*command)])


def supervisor(session: TerminalSession) -> int:
    """Return the id of the nono that runs in a shell, once it does."""
    children = Path(f"/proc/{session.pid}/task/{session.pid}/children")
    wait_for(lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


def runs_cat(session: TerminalSession) -> None:
    """Run a program of which is known that it runs."""
    session.run("cat")
    session.type(b"word\n")
    session.expect(b"word\r\nword\r\n")


def test_a_full_screen_editor_works(site: Site) -> None:
    vim = use_if_present("vim")
    (site.work / "poem").write_text("first\nsecond\n")
    with shell(site) as session:
        session.run(shlex.join(nono(vim, "-u", "NONE", "-i", "NONE", "-n", "poem")))
        session.expect(b"\x1b[?1049h")  # the other screen
        session.expect(b"first\r\n")
        session.expect(b"~")
        session.type(b"Gothird\x1b")
        session.expect(b"third")
        session.type(b":wq\r")
        session.expect(b"\x1b[?1049l")
        session.run("echo back-$((1 + 1))")
        session.expect(b"back-2")
        assert not session.is_raw
    assert (site.work / "poem").read_text() == "first\nsecond\nthird\n"


def test_an_editor_is_suspended_and_goes_on(site: Site) -> None:
    vim = use_if_present("vim")
    (site.work / "poem").write_text("first\n")
    with shell(site) as session:
        session.run(shlex.join(nono(vim, "-u", "NONE", "-i", "NONE", "-n", "poem")))
        session.expect(b"~")
        session.type(b"\x1a")
        session.expect(b"\x1b[?1049l")
        session.run("jobs")
        session.expect(b"Stopped")
        assert not session.is_raw
        session.run("fg")
        session.expect(b"\x1b[?1049h")
        session.expect(b"first")
        session.type(b"x:wq\r")
        session.run("echo status-$?")
        session.expect(b"status-0")
    assert (site.work / "poem").read_text() == "irst\n"


def test_the_size_is_the_windows(site: Site) -> None:
    with TerminalSession(
        site, nono("/bin/sh", "-c", "trap 'stty size' WINCH; stty size; while :; do read x; done")
    ) as it:
        it.expect(b"24 80\r\n")
        it.resize(30, 100)
        it.expect(b"30 100\r\n")


def test_a_size_that_changed_while_it_was_stopped_is_seen(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono("/bin/sh", "-c", f"{READY}kill -STOP $$; stty size")))
        session.expect(b"ready")
        session.expect(b"Stopped")
        session.resize(33, 99)
        session.run("fg")
        session.expect(b"33 99")


def test_the_agents_terminal_is_not_the_users(site: Site) -> None:
    with in_script(site, "/bin/sh", "-c", "stty -a; stty intr x -echoe; tty") as session:
        before = session.modes
        assert b"intr = ^C" in session.expect(b"/dev/pts/")
        session.expect(b"over-0")
        assert session.modes == before


def test_the_users_terminal_cannot_be_opened(site: Site) -> None:
    command = nono(
        "/bin/sh",
        "-c",
        'echo ready; read path; echo secret >"$path"; echo status-$?',
        flags=[*FLAGS, "--sandbox", "notify"],
    )
    with TerminalSession(site, command) as session:
        session.expect(b"ready")
        session.type(session.name.encode() + b"\n")
        assert b"secret\r\n" not in session.expect(b"status-2")


def test_control_c_interrupts_what_is_in_the_foreground(site: Site) -> None:
    with TerminalSession(site, nono(require_command("bash"), "--norc", "--noediting", "-i")) as session:
        runs_cat(session)
        session.type(b"\x03")
        session.run("echo status-$?")
        session.expect(b"status-130")
        session.run("exit 7")
        assert session.wait() == 7


def test_a_shell_inside_has_its_own_jobs(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono(require_command("bash"), "--norc", "--noediting", "-i")))
        runs_cat(session)
        session.type(b"\x1a")
        session.expect(b"Stopped")
        session.run("jobs; kill -9 %1; suspend")
        session.expect(b"Stopped")
        session.expect(b"Stopped")  # nono, for the shell outside
        session.run("jobs")
        session.expect(b"nono run")
        session.run("fg")
        session.run("read -s word")
        session.type(b"\x14hidden\n")
        session.run("echo got-${#word}")
        session.expect(b"got-7")


def ends_well(session: TerminalSession) -> None:
    session.type(b"\n")


def crashes(session: TerminalSession) -> None:
    session.type(b"\x1c")  # control-backslash


def is_killed(session: TerminalSession) -> None:
    os.kill(supervisor(session), signal.SIGKILL)


def crashes_itself(session: TerminalSession) -> None:
    os.kill(supervisor(session), signal.SIGSEGV)


@pytest.mark.parametrize("end", [ends_well, crashes, is_killed, crashes_itself])
def test_the_modes_are_given_back(site: Site, end: Callable[[TerminalSession], None]) -> None:
    with in_script(site, "/bin/sh", "-c", f"stty -icrnl; {READY} read x") as session:
        before = session.modes
        session.expect(b"ready")
        wait_for(lambda: session.is_raw)
        end(session)
        session.expect(b"over-")
        wait_for(lambda: session.modes == before)


def test_modes_that_another_program_has_set_are_left_alone(site: Site) -> None:
    with in_script(site, "/bin/sh", "-c", f"{READY} read x") as session:
        session.expect(b"ready")
        wait_for(lambda: session.is_raw)
        modes = session.modes
        modes[3] |= termios.ECHO
        termios.tcsetattr(session.terminal, termios.TCSANOW, modes)
        session.type(b"\n")
        session.expect(b"over-")
        assert session.modes == modes


def test_the_agent_dies_with_the_supervisor(site: Site) -> None:
    with in_script(site, "/bin/sh", "-c", "echo $$; read x; echo more") as session:
        agent = session.process(int(session.expect(b"\r\n")))
        is_killed(session)
        session.expect(b"over-137")
        wait_for(lambda: not Path(f"/proc/{agent}").exists())


def test_without_its_init_the_agent_was_killed(site: Site) -> None:
    with in_script(site, "/bin/sh", "-c", f"{READY} sleep 600") as session:
        before = session.modes
        session.expect(b"ready")
        nono_ = supervisor(session)
        children = Path(f"/proc/{nono_}/task/{nono_}/children").read_text().split()
        (init,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "nono-init\n")
        os.kill(int(init), signal.SIGKILL)
        session.expect(b"over-137")
        assert session.modes == before


def test_a_pipeline_leaves_the_terminal_alone(site: Site) -> None:
    script = f"{shlex.join(nono('/bin/sh', '-c', 'echo a; echo b >&2; sleep 0.1'))} | cat; echo over; read x"
    with TerminalSession(site, ["/bin/sh", "-c", script]) as session:
        before = session.modes
        seen = session.expect(b"over")
        assert {b"a\r\n", b"b\r\n"} <= set(seen.replace(b"\r\r", b"\r").splitlines(keepends=True))
        assert session.modes == before


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("echo x | {} cat", b"x\r\n"),
        ("{} sh -c 'echo a; echo b >&2' 2>&1 | cat", b"a\r\nb\r\n"),
        ("{} sh -c 'echo a; test -t 1 || echo none >&2' >file; cat file", b"none\r\na\r\n"),
        ("{} sh -c 'test -t 0 && test -t 1 && test -t 2 && tty' >/dev/tty", b"/dev/pts/"),
        ("{} sh -c 'test -t 0 || test -t 1 && echo one' </dev/null", b"one\r\n"),
    ],
)
def test_what_is_no_terminal_stays_what_it_is(site: Site, pipeline: str, expected: bytes) -> None:
    with TerminalSession(site, ["/bin/sh", "-c", pipeline.format(shlex.join(nono())) + "; echo over-$?"]) as session:
        seen = session.expect(b"over-0")
        assert expected in seen.replace(b"\r\r", b"\r")


def test_a_password_is_asked_for_in_a_pipeline(site: Site) -> None:
    ask = "stty -echo </dev/tty; printf pass: >/dev/tty; read p </dev/tty; stty echo </dev/tty; cat; echo ${#p}"
    with shell(site) as session:
        session.run(f"echo piped | {shlex.join(nono('/bin/sh', '-c', ask))} | cat")
        session.expect(b"pass:")
        session.type(b"secret\n")
        assert b"secret" not in session.expect(b"piped\r\n6\r\n").replace(b"\r\r", b"\r")
        session.run("echo here-$((1 + 1))")
        session.expect(b"here-2")
        assert not session.is_raw


def test_a_pager_in_a_pipeline_takes_the_keys_from_the_terminal(site: Site) -> None:
    less = use_if_present("less")
    with shell(site) as session:
        session.run(f"seq 1000 | {shlex.join(nono(less))}")
        session.expect(b"23\r\r\n")
        session.type(b"G")
        session.expect(b"1000\r\r\n")
        session.type(b"q")
        session.run("echo status-$?")
        session.expect(b"status-0")
        assert not session.is_raw


def test_a_pager_outside_keeps_the_terminal(site: Site) -> None:
    less = use_if_present("less")
    with shell(site) as session:
        session.run(f"{shlex.join(nono('/bin/sh', '-c', 'seq 1000'))} | {less}")
        session.expect(b"22\r\n")
        modes = session.modes
        session.type(b" ")
        session.expect(b"44\r\n")
        assert session.modes == modes
        session.type(b"q")
        session.run("echo here-$((1 + 1))")
        session.expect(b"here-2")


def test_control_c_ends_a_pipeline(site: Site) -> None:
    with shell(site) as session:
        session.run(f"{shlex.join(nono('/bin/sh', '-c', f'{READY}sleep 600'))} | cat")
        session.expect(b"ready")
        session.type(b"\x03")
        session.run("echo status-${PIPESTATUS[0]}")
        session.expect(b"status-130")


def test_a_note_ends_its_line(site: Site) -> None:
    command = nono("/bin/sh", "-c", f"{READY} sleep 600", flags=[*FLAGS, "--timeout", "1"])
    with TerminalSession(site, command) as session:
        session.expect(b"ready")
        wait_for(lambda: session.is_raw)
        session.expect(b"(--timeout)\r\n")


def test_a_job_in_the_background_stops_when_it_reads_the_terminal(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono("/bin/sh", "-c", "echo started; read x; echo got-$x")) + " &")
        session.expect(b"started")  # what it writes comes out
        wait_for(lambda: state(supervisor(session)) == "T")
        session.type(b"\n")
        session.expect(b"Stopped")
        session.run("fg")
        wait_for(lambda: session.is_raw)
        session.type(b"hello\n")
        session.expect(b"got-hello")
        session.run("echo status-$?")
        session.expect(b"status-0")
        assert not session.is_raw


def test_a_job_goes_to_the_background(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono("/bin/sh", "-c", f"{READY} kill -STOP $$; echo going; read x; echo got-$x")))
        session.expect(b"Stopped")
        session.run("bg")
        session.expect(b"going\r")  # and not the command, which bash shows
        wait_for(lambda: state(supervisor(session)) == "T")
        session.type(b"\n")
        session.expect(b"Stopped")
        session.run("fg")
        wait_for(lambda: session.is_raw)
        session.type(b"word\n")
        session.expect(b"got-word")


def test_who_may_not_write_in_the_background_stops(site: Site) -> None:
    with shell(site) as session:
        session.run("stty tostop")
        session.run(shlex.join(nono("/bin/sh", "-c", "echo spoken")) + " &")
        wait_for(lambda: state(supervisor(session)) == "T")
        session.type(b"\n")
        session.expect(b"Stopped")
        session.run("fg")
        session.expect(b"spoken\r\n")
        session.run("echo status-$?")
        session.expect(b"status-0")


def test_much_output_arrives_whole(site: Site) -> None:
    lines = b"".join(b"%07d\n" % number for number in range(125_000))
    (site.work / "much").write_bytes(lines)
    with in_script(site, "/bin/cat", "much") as session:
        expected = lines.replace(b"\n", b"\r\n")
        assert session.take(len(expected)) == expected
        assert session.expect(b"over-0") == b"over-0"


def test_every_byte_passes_in_both_directions(site: Site) -> None:
    code = """if True:
        import os, tty
        tty.setraw(0)
        os.write(1, b"ready")
        got = b""
        while len(got) < 4096:
            got += os.read(0, 4096)
        os.write(1, got)
    """
    every = bytes(range(256)) * 16
    with in_script(site, sys.executable, "-I", "-c", code) as session:
        session.expect(b"ready")
        session.type(every)
        assert session.take(len(every)) == every
        session.expect(b"over-0")


def test_the_last_words_are_heard_while_others_have_the_terminal(site: Site) -> None:
    script = f"(trap '' HUP; sleep 600.{os.getpid()}) & head -c 60000 /dev/zero | tr '\\0' y; echo last"
    with in_script(site, "/bin/sh", "-c", script) as session:
        seen = session.expect(b"over-0")
        assert seen.count(b"y") == 60000
        assert b"last" in seen


def test_the_end_of_the_terminal_ends_the_agent(site: Site) -> None:
    script = "echo $$; trap 'echo hup >>hup; exit 0' HUP; while :; do read x; done"
    with TerminalSession(site, nono("/bin/sh", "-c", script)) as session:
        agent = session.process(int(session.expect(b"\r\n")))
        session.hang_up()
        assert session.wait() == 0
    assert not Path(f"/proc/{agent}").exists()
    assert (site.work / "hup").read_text() == "hup\n"


def test_a_key_at_the_end_of_input_ends_it(site: Site) -> None:
    with in_script(site, "/bin/cat") as session:
        wait_for(lambda: session.is_raw)
        session.type(b"line\n\x04")
        session.expect(b"line\r\nline\r\n")
        session.expect(b"over-0")


def test_a_stopped_supervisor_is_a_stopped_job(site: Site) -> None:
    with shell(site) as session:
        session.run(shlex.join(nono("/bin/sh", "-c", "echo $PPID $$; read x; echo got-$x")))
        session.expect(b"\r\n")
        job = supervisor(session)
        os.kill(job, signal.SIGSTOP)
        session.expect(b"Stopped")
        assert state(job) == "T"
        session.run("fg")
        wait_for(lambda: session.is_raw)
        session.type(b"word\n")
        session.expect(b"got-word")
        session.run("stty | grep -c 'echo$'; echo over-$?")
        session.expect(b"over-")
        assert not session.is_raw
