"""What was denied is told when a run is over: by real programs, behind each wall, and never at their cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.terminals import TerminalSession
from tests.runs import Site, use_if_present

WALLS = ("namespace", "notify")
JSON = "denials.json"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A home that is not below /tmp, of which an agent may have one of its own; and what it may not touch."""
    directory = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/var/tmp"))
    with Site(directory / "site") as made:
        for path, text in {
            ".aws/credentials": "secret",
            ".gitconfig": "",
            "docs/a": "a",
            "docs/run.sh": "echo",
        }.items():
            file = made.home / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        for number in range(4):
            (made.home / "notes").mkdir(exist_ok=True)
            (made.home / "notes" / str(number)).write_text(str(number))
        yield made
    shutil.rmtree(directory)


@pytest.fixture(params=WALLS)
def wall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def footer(stderr: str) -> list[str]:
    """Return the lines of the footer, without their indent."""
    _, begin, rest = stderr.rpartition("\nnono  denied")
    return [line[6:] for line in (f"nono  denied{rest}" if begin else "").splitlines()]


def report(site: Site, flags: Sequence[str], command: Sequence[str]) -> list[dict[str, Any]]:
    """Run the command; return what --diagnostics-json says, once the footer is seen to say the same."""
    path = site.vault / JSON
    path.unlink(missing_ok=True)
    done = site.run(["--allow-cwd", "--diagnostics-json", str(path), *flags], command)
    written = json.loads(path.read_text())
    assert written["version"] == 1
    assert written["exit_status"] == done.returncode
    denials: list[dict[str, Any]] = written["denials"]
    assert len([line for line in footer(done.stderr) if line.startswith("denied ")]) == min(len(denials), 10)
    return denials


PROGRAMS = {
    "cat": ["cat", "{home}/.aws/credentials"],
    "bash": ["bash", "-c", "read x < {home}/.aws/credentials"],
    "sh": ["sh", "-c", "exec 3< {home}/.aws/credentials"],
    "python": [sys.executable, "-c", "open('{home}/.aws/credentials')"],
    "node": ["node", "-e", "require('fs').readFileSync('{home}/.aws/credentials')"],
    "perl": ["perl", "-e", 'open(F, "<", "{home}/.aws/credentials") or die "{home}/.aws/credentials: $!"'],
    "ruby": ["ruby", "-e", "File.read('{home}/.aws/credentials')"],
    "grep": ["grep", "x", "{home}/.aws/credentials"],
    "git": ["git", "hash-object", "{home}/.aws/credentials"],
    "head": ["head", "{home}/.aws/credentials"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_complains_of_is_told_with_its_flags(program: str, wall: str, site: Site) -> None:
    use_if_present(PROGRAMS[program][0])
    command = [word.replace("{home}", str(site.home)) for word in PROGRAMS[program]]
    (denial,) = report(site, ["--sandbox", wall], command)
    assert denial == {
        "kind": "path",
        "what": str(site.home / ".aws/credentials"),
        "access": "read",
        "reason": "sensitive_path",
        "origin": "deny_credentials",
        "flag": "--bypass-protection ~/.aws/credentials --read-file ~/.aws/credentials",
        "count": 1,
        "detail": "It is protected (deny_credentials: ~/.aws), also inside of what is granted.",
        "source": "output",
    }


WRITERS = {
    "touch": ["touch", "{home}/notes/new"],
    "bash": ["bash", "-c", "echo x > {home}/notes/new"],
    "mkdir": ["mkdir", "{home}/notes/new"],
    "python": [sys.executable, "-c", "open('{home}/notes/new', 'w')"],
    "node": ["node", "-e", "require('fs').mkdirSync('{home}/notes/new')"],
    "rm": ["rm", "-f", "{home}/notes/1"],
    "tee": ["tee", "{home}/notes/1"],
}


@pytest.mark.parametrize("program", WRITERS)
def test_what_was_to_be_written_is_told_as_that(program: str, wall: str, site: Site) -> None:
    use_if_present(WRITERS[program][0])
    command = [word.replace("{home}", str(site.home)) for word in WRITERS[program]]
    (denial,) = report(site, ["--sandbox", wall, "--read", str(site.home / "notes")], command)
    assert denial["access"] == "write"
    flag = "--write ~/notes" if "new" in denial["what"] else "--write-file ~/notes/1"
    assert denial["flag"] == flag


def test_the_flag_that_is_told_is_the_one_that_helps(wall: str, site: Site) -> None:
    """For each line: with its flag, the same command is no more denied."""
    for program in (
        "cat ~/.aws/credentials",
        "cat ~/notes/1",
        "cat ~/notes/*0 ~/notes/1 ~/notes/2 ~/notes/3",
        "echo x > ~/notes/1",
        "touch ~/docs/b",
    ):
        flags = ["--sandbox", wall]
        for _ in range(3):
            denials = report(site, flags, ["bash", "-c", program])
            if not denials:
                break
            shell = subprocess.run(
                ["bash", "-c", f"printf '%s\\n' {denials[0]['flag']}"], env=site.environment, capture_output=True
            )
            flags += shell.stdout.decode().split("\n")[:-1]
        assert not denials, (program, flags, denials)


def test_the_footer_has_eighty_columns_and_flags_that_can_be_copied(site: Site) -> None:
    done = site.run(["--allow-cwd"], ["bash", "-c", "cat ~/.aws/credentials ~/notes/1; mkdir ~/x"])
    assert footer(done.stderr) == [
        "denied      read ~/.aws/credentials  (protected: deny_credentials)",
        "              --bypass-protection ~/.aws/credentials",
        "              --read-file ~/.aws/credentials",
        "denied      read ~/notes/1  (not granted)",
        "              --read-file ~/notes/1",
        "denied      write ~/x: no grant covers it; make it before the run, and",
        "              grant it by its own name",
        "note        the paths are those that the command's own output names",
    ]


@pytest.mark.parametrize("flags", [["--no-diagnostics"], ["--silent"]])
def test_who_does_not_want_it_gets_none(flags: list[str], site: Site) -> None:
    done = site.run(["--allow-cwd", *flags], ["cat", str(site.home / ".aws/credentials")])
    assert "Permission denied" in done.stderr
    assert not footer(done.stderr)


def test_nothing_is_said_where_nothing_was_denied(site: Site) -> None:
    plain = "echo one >&2; cat nothing-there; false"
    done = site.run(["--allow-cwd"], ["bash", "-c", plain])
    assert done.returncode == 1
    assert done.stderr.endswith("one\ncat: nothing-there: No such file or directory\n")
    assert report(site, [], ["bash", "-c", plain]) == []


def test_what_the_machine_itself_denies_is_not_nonos(site: Site) -> None:
    """A file that may be read, but is not to be run; and what nobody may read."""
    assert report(site, ["--read", str(site.home / "docs")], [str(site.home / "docs" / "run.sh")]) == []
    closed = site.work / "closed"
    closed.write_text("x")
    closed.chmod(0)
    report_of = report(site, [], ["bash", "-c", f"cat {closed}; ./closed; cd {closed}"])
    assert report_of == []


def test_what_the_agent_does_not_see_is_told_only_where_it_is_there(site: Site) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        denials = report(site, ["--sandbox", "namespace"], ["cat", file.name, "/tmp/nono-nothing-there"])
        assert [(each["what"], each["flag"]) for each in denials] == [(file.name, f"--read-file {file.name}")]


def test_agents_that_print_denials_open_nothing_by_it(site: Site) -> None:
    """It is said whose words these are; nothing that would open much is advised, nor anything for a shell to run."""
    lies = [
        "cat: /: Permission denied",
        f"cat: {site.home}: Permission denied",
        "cat: /usr/bin: Permission denied",
        "cat: /srv/x; rm -rf ~: Permission denied",
        "cat: /x\x1b[2J\x1b]0;y\x07: Permission denied",
        "cat: /x\u202e: Permission denied",
        *(f"cat: {site.home}/{name}: Permission denied" for name in ("a", "b", "c", "d")),
    ]
    program = f"import sys; sys.stderr.write({chr(10).join(lies)!r} + chr(10))"
    done = site.run(["--allow-cwd"], [sys.executable, "-c", program])
    told = footer(done.stderr)
    assert told[-1] == "note        the paths are those that the command's own output names"
    flags = [line.strip() for line in told if line.strip().startswith("--")]
    assert not {"--read /", "--read ~", "--allow ~", "--allow /"} & set(flags)
    assert not any("rm -rf" in flag and "'" not in flag for flag in flags)
    assert "\x1b" not in "\n".join(told)
    assert "\u202e" not in "\n".join(told)


def test_what_is_known_is_not_pushed_out_by_what_is_printed(site: Site) -> None:
    program = "import sys, urllib.request as u\n"
    program += "for n in range(99): print(f'cat: /root/{n}/x: Permission denied', file=sys.stderr)\n"
    program += "try: u.urlopen('http://example.org')\nexcept OSError: pass"
    done = site.run(["--allow-cwd", "--allow-domain", "example.com"], [sys.executable, "-c", program])
    assert "              --allow-domain example.org" in footer(done.stderr)


def test_connections_behind_the_wall_without_namespaces(site: Site) -> None:
    program = "import socket; socket.create_connection(('127.0.0.1', 9))"
    flags = ["--sandbox", "notify", "--allow-domain", "example.com"]
    denials = report(site, flags, [sys.executable, "-c", program])
    assert [(each["kind"], each["access"], each["what"]) for each in denials] == [("socket", "connect", "127.0.0.1:9")]
    program = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 39771)); s.listen()"
    (denial,) = report(site, flags, [sys.executable, "-c", program])
    assert denial["flag"] == "--listen-port 39771"


def test_a_terminal_is_listened_to_as_well(site: Site) -> None:
    argv = [sys.executable, "-m", "nono", "run", "--allow-cwd", "--", "cat", str(site.home / ".aws/credentials")]
    with TerminalSession(site, argv) as session:
        session.expect(b"Permission denied\r\n")
        session.expect(b"denied")
        session.expect(b"--read-file ~/.aws/credentials")


@pytest.mark.parametrize("where", ["pipe", "file", "terminal"])
def test_every_byte_of_standard_error_arrives(where: str, site: Site) -> None:
    """Random ones, in pieces of all sizes, among them words that are looked for."""
    data = os.urandom(400_000) + b"cat: /x: Permission denied\n" * 1000 + os.urandom(99_999)
    if where == "terminal":
        data = data.replace(b"\x03", b"").replace(b"\x1a", b"")  # not that it matters on the way out
    (site.work / "data").write_bytes(data)
    program = "import os\nd=open('data','rb').read()\nwhile d: n=os.write(2,d[:7777]); d=d[n:]"
    command = [sys.executable, "-m", "nono", "run", "--allow-cwd", "--", sys.executable, "-c", program]
    if where == "terminal":
        raw = f"stty raw -echo; {' '.join(map(_quoted, command))}"
        with TerminalSession(site, ["/bin/sh", "-c", raw]) as session:
            session.expect(b"seccomp\n")
            assert session.take(len(data)) == data
        return
    if where == "file":
        with open(site.vault / "err", "wb") as file:
            subprocess.run(
                command, cwd=site.work, env=site.environment, stderr=file, stdout=subprocess.PIPE, check=True
            )
        got = (site.vault / "err").read_bytes()
    else:
        done = subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, check=True)
        got = done.stderr
    assert data in got
    assert got.partition(data)[0].endswith(b"seccomp\n")


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_the_order_of_output_and_errors_in_one_file_is_kept(site: Site) -> None:
    program = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    with open(site.vault / "both", "wb") as file:
        subprocess.run(
            [sys.executable, "-m", "nono", "run", "--allow-cwd", "--", sys.executable, "-c", program],
            cwd=site.work, env=site.environment, stdout=file, stderr=file, check=True,
        )  # fmt: skip
    lines = (site.vault / "both").read_text().splitlines()
    assert lines[-2000:] == [str(number) for number in range(2000)]


def test_a_run_that_is_ended_does_not_wait_for_who_reads_nothing(site: Site) -> None:
    program = (
        "import os, time\nos.write(2, b'x' * 60000)\nprint(1, flush=True)\nos.write(2, b'y' * 60000)\ntime.sleep(60)"
    )
    with site.start(["--allow-cwd"], [sys.executable, "-c", program]) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"1\n"
        run.terminate()
        assert run.wait(20) == 128 + signal.SIGTERM


# --diagnostics-json


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("-", "standard output is the command's own"),
        ("fd:1", "standard output is the command's own"),
        ("fd:77", "Bad file descriptor; open it first, e.g. 77>file"),
        ("fd:x", "the number of an open descriptor"),
        ("/dev/null", "--diagnostics-json /dev/null: "),  # no file; and whose directory only root may write
        ("/nonexistent/x", "No such file or directory: /nonexistent"),
        (".", "is not a regular file"),
    ],
)
def test_a_report_that_cannot_be_written_is_said_before_the_start(where: str, sentence: str, site: Site) -> None:
    done = site.run(["--allow-cwd", "--diagnostics-json", where], ["touch", "ran"])
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (site.work / "ran").exists()


def test_a_report_goes_to_a_descriptor_that_is_not_the_agents(site: Site) -> None:
    read_fd, write_fd = os.pipe()
    program = f"import os\ntry: os.write({write_fd}, b'mine')\nexcept OSError: pass\nopen('{site.home}/notes/1')"
    flags = ["--allow-cwd", "--silent", "--diagnostics-json", f"fd:{write_fd}"]
    site.run(flags, [sys.executable, "-c", program], pass_fds=[write_fd])
    os.close(write_fd)
    written = json.loads(os.read(read_fd, 100_000))
    os.close(read_fd)
    assert written["exit_status"] == 1
    assert [each["what"] for each in written["denials"]] == [str(site.home / "notes" / "1")]


@pytest.mark.parametrize("trick", ["ln -s {victim} {name}", "ln {victim} {name}", "mkdir {name}", ":"])
def test_what_the_agent_leaves_in_its_place_leads_nowhere(trick: str, site: Site) -> None:
    """In a directory that the agent may write: the report takes the name's place, and nothing behind it."""
    shutil.rmtree(site.work / "out", ignore_errors=True)
    (site.work / "out").mkdir()
    victim, name = site.work / "victim", site.work / "out" / "report"
    victim.write_text("as it was")
    done = site.run(
        ["--allow-cwd", "--diagnostics-json", "out/report"],
        ["sh", "-c", trick.format(victim=victim, name=name) + f"; cat {site.home}/notes/1"],
    )
    assert victim.read_text() == "as it was"
    if trick.startswith("mkdir"):
        assert "--diagnostics-json could not be written: Is a directory" in " ".join(done.stderr.split())
        assert list((site.work / "out").iterdir()) == [name]
    else:
        assert len(json.loads(name.read_text())["denials"]) == 1
        assert not name.is_symlink()
        assert name.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_was_replaced_is_not_written(site: Site) -> None:
    shutil.rmtree(site.work / "out", ignore_errors=True)
    (site.work / "out").mkdir()
    elsewhere = site.work / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    site.run(["--allow-cwd", "--diagnostics-json", "out/report"], ["sh", "-c", "mv out old; ln -s elsewhere out"])
    assert not list(elsewhere.iterdir())
    assert (site.work / "old" / "report").exists()
    (site.work / "out").unlink()
    shutil.rmtree(site.work / "old")


def test_a_run_that_does_not_start_is_reported_as_that(site: Site) -> None:
    path = site.vault / "not-started.json"
    done = site.run(["--allow-cwd", "--diagnostics-json", str(path)], ["/nonexistent"])
    assert done.returncode == 127
    assert json.loads(path.read_text()) == {"version": 1, "exit_status": 127, "denials": []}


@pytest.mark.parametrize("flag", ["--diagnostics-json", "--log-file"])
def test_nothing_is_written_where_an_earlier_agent_planted_a_link(flag: str, site: Site) -> None:
    victim = site.home / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "name").write_text("as it was")
    site.run(["--allow-cwd"], ["sh", "-c", f"mkdir -p deep && ln -sfn {victim} deep/planted"])
    done = site.run(["--allow-cwd", flag, "deep/planted/name"], ["touch", "ran-after-all"])
    assert done.returncode == 2
    assert "deep/planted is a link" in " ".join(done.stderr.split())
    assert (victim / "name").read_text() == "as it was"
    assert not (site.work / "ran-after-all").exists()
    shutil.rmtree(site.work / "deep")
