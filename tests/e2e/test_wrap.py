"""`nono wrap`: the process becomes the command, and what the kernel enforces is all there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import TESTED_WALL, WITHOUT_LANDLOCK, Site

pytestmark = pytest.mark.skipif(TESTED_WALL != "", reason="this wall has no mounts and no mediator, whatever is tested")

ATTACKS = r"""
import errno, os, signal, socket, sys

def attempt(name, call, *arguments):
    try:
        call(*arguments)
        print(name, "succeeded")
    except OSError as error:
        print(name, errno.errorcode[error.errno])

secret, outside, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
attempt("read", open, secret)
attempt("write", open, outside, "w")
attempt("unix", socket.socket, socket.AF_UNIX)
attempt("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
attempt("signal", os.kill, parent, 0)
attempt("environ", open, f"/proc/{parent}/environ", "rb")
def connect():
    with socket.socket() as client:
        client.settimeout(5)
        client.connect(("192.0.2.1", 80))
attempt("connect", connect)
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print("capabilities", *(int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")))
print("no_new_privs", status["NoNewPrivs"], "seccomp", status["Seccomp"])
print("fds", *sorted(os.listdir("/proc/self/fd"))[:-1])
print("pid", os.getpid())
open(os.path.join(os.environ["TMPDIR"], "mine"), "w").close()
"""


def test_it_is_the_command_and_all_is_enforced(site: Site) -> None:
    secret = site.home / ".ssh" / "id_ed25519"
    secret.parent.mkdir()
    secret.write_text("secret")
    command = ["/usr/bin/python3", "-c", ATTACKS, str(secret), str(site.directory / "outside"), str(os.getpid())]
    process = subprocess.Popen(
        [sys.executable, "-m", "nono", "wrap", "-s", "-a", str(site.home), "--block-net", "--", *command],
        cwd=site.work, env=site.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=60)
    assert stderr == ""
    told = dict(line.split(" ", 1) for line in stdout.splitlines())
    assert told["read"] in ("EACCES", "ENOENT")
    assert told["write"] in ("EACCES", "EROFS")
    assert told["unix"] == "EAFNOSUPPORT"
    assert told["packet"] in ("EAFNOSUPPORT", "EACCES", "EPERM")
    assert told["signal"] in ("EPERM", "ESRCH")
    assert told["environ"] in ("EACCES", "ENOENT")
    assert told["connect"] == "ENETUNREACH"
    assert told["capabilities"].split()[:2] == ["0", "0"]
    assert told["no_new_privs"] == "1 seccomp 2"
    assert told["fds"] == "0 1 2"
    assert told["pid"] == str(process.pid)


def test_statuses_and_streams_are_the_commands(site: Site) -> None:
    done = site.nono(["wrap", "-s", "--block-net", "--", "/bin/sh", "-c", "cat; echo err >&2; exit 3"], stdin="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "err\n")
    assert site.nono(["wrap", "-s", "--", "nonexistent"]).returncode == 127
    killed = site.nono(["wrap", "-s", "--", "/bin/sh", "-c", "kill -TERM $$"])
    assert killed.returncode == -15  # nobody stands between: the signal itself
    (site.work / "no-program").write_text("x")
    (site.work / "no-program").chmod(0o755)
    failed = site.nono(["wrap", "-s", "--allow-cwd", "--", str(site.work / "no-program")])
    assert failed.returncode == 126
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--credential", "openai"],
        ["--allow-domain", "example.com"],
        ["--open-port", "5432", "--block-net"],
        ["--listen-port", "3000", "--block-net"],
        ["--allow-unix-socket", "own"],
        ["--memory", "1G"],
        ["--timeout", "5"],
        ["--sandbox", "notify", "--block-net"],
    ],
)
def test_what_needs_a_supervisor_is_refused(site: Site, flags: list[str]) -> None:
    done = site.nono(["wrap", *flags, "--", "/bin/touch", str(site.work / "ran")])
    assert done.returncode in (1, 2)
    assert re.fullmatch(r"nono: .*nono run\n", done.stderr)
    assert not (site.work / "ran").exists()


def test_without_landlock_nothing_starts(site: Site) -> None:
    command = [*WITHOUT_LANDLOCK, sys.executable, "-m", "nono", "wrap", "--", "/bin/echo", "ran"]
    done = subprocess.run(command, cwd=site.work, env=site.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Landlock" in done.stderr


def test_its_temporary_directory_goes_with_the_next(site: Site) -> None:
    def directories() -> list[Path]:
        return list(site.tmp.glob("nono-wrap-*"))

    (site.tmp / "nono-wrap-other").mkdir()
    sleeping = subprocess.Popen(
        [sys.executable, "-m", "nono", "wrap", "-s", "--block-net", "--", "/bin/sh", "-c", "echo up; read x"],
        cwd=site.work, env=site.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert sleeping.stdout is not None
    assert sleeping.stdout.readline() == b"up\n"
    (running,) = (path for path in directories() if path.name != "nono-wrap-other")
    site.nono(["wrap", "-s", "--block-net", "--", "/bin/sh", "-c", "mkdir -p $TMPDIR/a/b; chmod 0 $TMPDIR/a"])
    assert len(directories()) == 3
    site.nono(["wrap", "-s", "--block-net", "--", "/bin/true"])
    assert len(directories()) == 3
    assert running in directories()
    sleeping.communicate(b"\n", timeout=60)
    site.nono(["wrap", "-s", "--block-net", "--", "/bin/true"])
    assert len(directories()) == 2
    assert running not in directories()
