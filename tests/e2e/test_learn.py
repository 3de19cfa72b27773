"""`nono learn` in whole: what it writes is enough for the next run, and never more than the command had.

Behind each wall; the user's directories are in /var/tmp, because a run has a /tmp of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.e2e.learning import PYTHON, again, learn, profile_of, script, text_of
from tests.e2e.learning import site as site
from tests.e2e.learning import wall as wall
from tests.runs import TIMEOUT_S, Site, require_command

READS = """
import os, pathlib, subprocess, sys
home = pathlib.Path.home()
assert (home / "notes" / "a.txt").read_text() == "a"
assert sum(len(path.read_text()) for path in sorted((home / "data").iterdir())) == 6
assert (home / "linked" / "x").read_text() == "far"
assert [(home / "many" / name).read_text() for name in "abcd"]
subprocess.run([home / "tools" / "tool"], check=True)
pathlib.Path("made/deep").mkdir(parents=True, exist_ok=True)
pathlib.Path("made/deep/file").write_text("x")
pathlib.Path("made/deep/file").rename("made/deep/other")
import tempfile
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print("went well")
"""


def test_the_next_run_has_all_that_it_needs_and_nothing_more(site: Site, wall: list[str]) -> None:
    for name in ("notes/a.txt", "notes/b.txt"):
        (site.home / name).parent.mkdir(exist_ok=True)
        (site.home / name).write_text(name[6])
    for name in ("data", "many", "far", "tools", "interpreters"):
        (site.home / name).mkdir()
    for name in "abcdef":
        (site.home / "data" / name).write_text("1")
        (site.home / "many" / name).write_text("1")
    (site.home / "far" / "x").write_text("far")
    (site.home / "linked").symlink_to("far")
    interpreter = site.home / "interpreters" / "sh"
    interpreter.write_bytes(Path("/bin/sh").read_bytes())
    interpreter.chmod(0o755)
    tool = site.home / "tools" / "tool"
    tool.write_text(f"#!{interpreter}\nexit 0\n")
    tool.chmod(0o755)
    command = script(site, READS)
    done = learn(site, wall, command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "went well\n"
    assert "nono run -p test -- " in done.stderr
    learned = profile_of(site)
    assert learned["filesystem"] == {
        "read": ["~/data", "~/many"],
        "read_file": ["~/far/x", "~/interpreters/sh", "~/notes/a.txt", "~/tools/tool"],
    }
    assert learned["workdir"] == {"access": "readwrite"}
    assert learned["network"] == {"block": True}
    done = again(site, wall, command)
    assert done.stdout == "went well\n", done.stderr
    assert "denied" not in done.stderr
    other = again(site, wall, ["/bin/cat", str(site.home / "notes" / "b.txt")])
    assert other.returncode != 0


def test_git_and_a_shell(site: Site, wall: list[str]) -> None:
    require_command("git")
    repository = site.home / "repository"
    quiet = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(repository)]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "file").write_text("x")
    subprocess.run([*quiet, "add", "."], check=True)
    subprocess.run([*quiet, "commit", "-qm", "first"], check=True)
    command = [
        "/bin/sh",
        "-c",
        f"git clone -q {repository} clone && cd clone && git log --format=%s | cat && git status -s",
    ]
    done = learn(site, wall, command)
    assert done.stdout == "first\n", done.stderr
    subprocess.run(["rm", "-r", str(site.work / "clone")], check=True)
    done = again(site, wall, command)
    assert done.stdout == "first\n", done.stderr
    assert "denied" not in done.stderr


ATTACK = """
import os, pathlib, socket, sys
home = pathlib.Path.home()
def attempt(what, action):
    try:
        print(what, "LEAK" if action() is not OSError else "")
    except OSError as error:
        print(what, "denied")
attempt("key", lambda: (home / ".ssh" / "id_ed25519").read_text())
attempt("link", lambda: (home / "innocent").read_text())
attempt("dotfile", lambda: (home / "dotfiles" / "config").read_text())
attempt("settings", lambda: (home / ".bashrc").read_text())
attempt("profile", lambda: (home / ".config" / "nono" / "profiles" / "mine.json").read_text())
attempt("outside", lambda: (home / "outside").write_text("x"))
attempt("new", lambda: (home / ".new").mkdir())
attempt("rename", lambda: (home / "notes").rename(home / "moved"))
attempt("remove", lambda: (home / "notes" / "a.txt").unlink())
attempt("truncate", lambda: os.truncate(home / "notes" / "a.txt", 0))
def connect():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
attempt("socket", connect)
"""


def test_what_is_protected_stays_closed_and_becomes_a_comment(site: Site, wall: list[str]) -> None:
    (site.home / ".ssh").mkdir(mode=0o700)
    (site.home / ".ssh" / "id_ed25519").write_text("key")
    (site.home / "innocent").symlink_to(".ssh/id_ed25519")
    (site.home / "dotfiles").mkdir()
    (site.home / "dotfiles" / "config").write_text("Host x")
    (site.home / ".ssh" / "config").symlink_to("../dotfiles/config")
    (site.home / ".bashrc").write_text("x")
    (site.home / "notes").mkdir()
    (site.home / "notes" / "a.txt").write_text("a")
    (site.home / ".config" / "nono" / "profiles").mkdir(parents=True)
    (site.home / ".config" / "nono" / "profiles" / "mine.json").write_text("{}")
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(site.home / "socket")
        listener.bind(path)
        listener.listen()
        done = learn(site, wall, [*script(site, ATTACK), path])
    assert done.returncode == 0, done.stderr
    assert "LEAK" not in done.stdout, done.stdout
    assert (site.home / "notes" / "a.txt").read_text() == "a"
    learned = profile_of(site)
    assert not any(learned.get("filesystem", {}).values()), learned
    text = text_of(site)
    for line in ("~/.ssh/id_ed25519", "~/.bashrc", "~/notes"):
        assert re.search(rf'^ *// "{re.escape(line)}",$', text, re.MULTILINE), text
    assert re.search(r'^ *// ".*/socket",$', text, re.MULTILINE), text
    assert "~/outside" in text
    assert "wanted but denied" in " ".join(done.stderr.split())


def test_the_comments_are_the_lines_that_grant(site: Site) -> None:
    """Who takes the two slashes away has what it said."""
    (site.home / ".ssh").mkdir(mode=0o700)
    (site.home / ".ssh" / "config").write_text("Host x\n")
    (site.home / "kept").mkdir()
    command = ["/bin/sh", "-c", "cat ~/.ssh/config; echo x > ~/kept/file"]
    assert learn(site, [], command).returncode != 0
    path = site.home / ".config" / "nono" / "profiles" / "test.jsonc"
    path.write_text(re.sub(r'^( *)// ("~/[^"]*",)$', r"\1\2", path.read_text(), flags=re.MULTILINE))
    done = again(site, [], command)
    assert done.returncode == 0, done.stderr + path.read_text()
    assert done.stdout == "Host x\n"
    assert (site.home / "kept" / "file").read_text() == "x\n"


def test_a_path_that_is_swapped_while_it_is_recorded(site: Site, wall: list[str]) -> None:
    """The command lies to the recorder: it gets no line for what is protected, nor does it get what is."""
    (site.home / ".ssh").mkdir(mode=0o700)
    (site.home / ".ssh" / "key").write_text("secret")
    (site.home / "open").mkdir()
    (site.home / "open" / "key").write_text("public")
    command = script(
        site,
        f"""
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
good, bad = {str(site.home / "open" / "key")!r}.encode(), {str(site.home / ".ssh" / "key")!r}.encode()
bad = bad.replace(b".ssh/", b".ssh/")
path = ctypes.create_string_buffer(good + bytes(8))
racing = True
def swap():
    while racing:
        ctypes.memmove(path, bad + bytes(1), len(bad) + 1)
        ctypes.memmove(path, good + bytes(1), len(good) + 1)
thread = threading.Thread(target=swap)
thread.start()
seen = set()
for _ in range(3000):
    fd = libc.open(path, os.O_RDONLY)
    if fd >= 0:
        seen.add(os.read(fd, 100))
        os.close(fd)
racing = False
thread.join()
print(seen)
""",
    )
    done = learn(site, wall, command)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout
    active = profile_of(site).get("filesystem", {})
    assert not [path for paths in active.values() for path in paths if ".ssh" in path]


def test_a_command_that_forks_and_opens_wildly(site: Site, wall: list[str]) -> None:
    """Threads, forks, and vforks, all at once: nothing hangs, and nothing is lost."""
    (site.home / "wild").mkdir()
    for index in range(40):
        (site.home / "wild" / str(index)).mkdir()
        (site.home / "wild" / str(index) / "x").write_text("x")
    command = script(
        site,
        """
import os, pathlib, subprocess, threading
home = pathlib.Path.home()
def work(first):
    for index in range(first, 40, 4):
        (home / "wild" / str(index) / "x").read_text()
        for _ in range(200):
            os.close(os.open("/etc/hosts", os.O_RDONLY))
    crowd = "for i in 1 2 3 4 5 6 7 8; do cat /etc/hosts & done; wait"
    subprocess.run(["/bin/sh", "-c", crowd], stdout=subprocess.DEVNULL)
pids = []
for first in range(4):
    pids.append(pid := os.fork())
    if pid == 0:
        threads = [threading.Thread(target=work, args=(first,)) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        os._exit(0)
print([os.waitpid(pid, 0)[1] for pid in pids])
""",
    )
    done = learn(site, wall, command)
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr
    assert sorted(profile_of(site)["filesystem"]["read_file"]) == sorted(f"~/wild/{index}/x" for index in range(40))


def test_paths_of_thousands_of_names_harm_nobody(site: Site) -> None:
    command = script(
        site,
        """
import os
for width in (1, 2, 3):
    path = "/" + "/".join(["a" * width] * (4000 // (width + 1)))
    for start in ("", "/tmp", "/proc/self/root", os.path.expanduser("~")):
        try:
            os.open((start + path)[:4090], os.O_RDONLY)
        except OSError:
            pass
""",
    )
    done = learn(site, [], command)
    assert done.returncode == 0, done.stderr
    assert "not whole" in " ".join(done.stderr.split())


ODD = [b"new\nline", b"\xff\xfe", b'quote"', b"star*", b"dollar$HOME", b"__ \x1b[31mred", b"* }"]


def test_names_that_are_no_text_or_would_end_a_comment(site: Site) -> None:
    for directory in ("odd", ".ssh"):
        (site.home / directory).mkdir()
        for name in ODD:
            Path(os.fsdecode(os.path.join(os.fsencode(site.home / directory), name))).write_text("x")
    reads = """
import os
home = os.path.expanduser("~").encode()
for name in NAMES:
    for path in (b"/odd/" + name, b"/.ssh/" + name):
        try:
            os.close(os.open(home + path, os.O_RDONLY))
        except OSError:
            pass
"""
    plain = [name for name in ODD if name != b"\xff\xfe"]
    few = script(site, reads.replace("NAMES", repr([b"\xff\xfe", *plain[:2]])))
    assert learn(site, [], few).returncode == 0
    assert "\x1b" not in text_of(site)
    assert profile_of(site)["filesystem"]["read_file"] == ["~/odd/new\nline", '~/odd/quote"']
    assert again(site, [], few).returncode == 0
    for name in ODD:
        done = learn(site, ["--force"], script(site, reads.replace("NAMES", repr([name]))))
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in text_of(site) + done.stderr
        assert again(site, [], ["/bin/true"]).returncode == 0


def test_the_status_is_the_commands_own(site: Site) -> None:
    assert learn(site, [], ["/bin/sh", "-c", "exit 7"]).returncode == 7
    assert learn(site, ["--force"], ["/bin/sh", "-c", "kill -TERM $$"]).returncode == 143
    missing = learn(site, ["--force"], ["/nonexistent/command"])
    assert missing.returncode == 127


def test_a_profile_that_is_there_is_not_replaced(site: Site) -> None:
    assert learn(site, [], ["/bin/true"]).returncode == 0
    before = text_of(site)
    refused = learn(site, [], ["/bin/sh", "-c", "echo started"])
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert "started" not in refused.stdout
    assert text_of(site) == before
    assert learn(site, ["--force"], ["/bin/sh", "-c", "true"]).returncode == 0
    assert 'one run of "sh"' in text_of(site)
    assert not [path for path in (site.home / ".config/nono/profiles").iterdir() if path.name.startswith(".")]


def test_its_default_name_is_the_commands(site: Site) -> None:
    done = site.nono(["learn", "--", "/bin/sh", "-c", "true"])
    assert done.returncode == 0, done.stderr
    assert (site.home / ".config/nono/profiles/sh-learned.jsonc").stat().st_mode & 0o777 == 0o600
    assert site.nono(["run", "-p", "sh-learned", "--", "/bin/true"]).returncode == 0


def test_an_output_in_the_working_directory_is_the_agents_to_spoil_but_not_to_lead_astray(site: Site) -> None:
    victim = site.home / "victim"
    victim.write_text("kept")
    (site.work / "out.jsonc").unlink(missing_ok=True)
    done = site.nono(["learn", "-o", "out.jsonc", "--", "/bin/sh", "-c", f"ln -s {victim} out.jsonc; ls -A"])
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "kept"
    assert (site.work / "out-2.jsonc").read_text().startswith("// Learned")
    assert ".nono" not in done.stdout
    forced = site.nono(["learn", "--force", "-o", "out.jsonc", "--", "/bin/true"])
    assert forced.returncode == 0
    assert victim.read_text() == "kept"
    assert not (site.work / "out.jsonc").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command"),
        (["-o", "a", "--name", "b", "--", "true"], "leave one of them out"),
        (["--name", "../x", "--", "true"], "a profile's name"),
        (["-o", "/nonexistent/x", "--", "true"], "/nonexistent"),
        (["-o", "/proc/x", "--", "true"], "/proc"),
        (["--allow-domain", "*", "--", "true"], "every host"),
    ],
)
def test_mistakes_are_told_before_anything_starts(site: Site, arguments: list[str], words: str) -> None:
    done = site.nono(["learn", *arguments])
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_learned_from(site: Site, number: signal.Signals) -> None:
    (site.home / "a").mkdir()
    (site.home / "a" / "x").write_text("x")
    program = (
        "import pathlib,time;pathlib.Path('~/a/x').expanduser().read_text();print('ready',flush=True);time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "nono", "learn", "--name", "test", "--", PYTHON, "-c", program],
        cwd=site.work,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 128 + number
    assert profile_of(site)["filesystem"] == {"read_file": ["~/a/x"]}


def test_what_is_in_the_machines_own_tmp_is_told(site: Site, wall: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        tool = Path(directory) / "tool"
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        done = learn(site, wall, ["/bin/sh", "-c", f"{tool}; echo x > $TMPDIR/own && cat $TMPDIR/own"])
        assert done.stdout == "x\n"
        assert re.search(rf'^ *// "{tool}",$', text_of(site), re.MULTILINE), text_of(site)
        assert "own" not in text_of(site)


def test_the_home_as_working_directory_is_not_written(site: Site) -> None:
    done = site.nono(
        ["learn", "--name", "test", "--workdir", str(site.home), "--", "/bin/sh", "-c", "echo x > new || ls"]
    )
    assert not (site.home / "new").exists(), done.stderr
    assert profile_of(site)["workdir"] == {"access": "none"}


def test_recording_is_not_what_protects(site: Site) -> None:
    """A record that overflows ends the recording, not the run; and the wall stands."""
    (site.home / ".ssh").mkdir(mode=0o700)
    (site.home / ".ssh" / "key").write_text("secret")
    command = script(
        site,
        """
import os, pathlib
for index in range(210_000):
    try:
        os.open(f"/nonexistent/{index}", os.O_RDONLY)
    except OSError:
        pass
try:
    print((pathlib.Path.home() / ".ssh" / "key").read_text())
except PermissionError:
    print("denied")
""",
    )
    began = time.monotonic()
    done = learn(site, ["--block-net"], command)
    assert done.stdout == "denied\n", done.stderr
    assert "not whole" in text_of(site)
    assert time.monotonic() - began < TIMEOUT_S
    json.dumps(profile_of(site))
