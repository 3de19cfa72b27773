"""`nono setup --check-only` on this machine, as root and as a user, and where things are forbidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nono.sandbox.syscalls import number
from tests.runs import TIMEOUT_S, WITHOUT_LANDLOCK, Site, require_command

# Everything that Docker's default profile refuses to an ordinary container of what nono needs: clone and unshare with
# any CLONE_NEW* (0x7e020000), mounting. clone3 is ENOSYS there, because its flags cannot be read.
_AS_IN_A_CONTAINER = """\
import ctypes, errno, os, struct, sys
nr = dict(zip(("clone", "unshare", "mount", "clone3"), map(int, sys.argv[1:5])))
code = [(0x20, 0, 0, 0)]
for name in ("unshare", "mount"):
    code += [(0x15, 0, 1, nr[name]), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
code += [(0x15, 0, 1, nr["clone3"]), (0x06, 0, 0, 0x00050000 | errno.ENOSYS)]
code += [(0x15, 0, 3, nr["clone"]), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000)]
code += [(0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)]
buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
if libc.prctl(22, 2, ctypes.create_string_buffer(program)):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[5], sys.argv[5:])
"""
_NUMBERS = [str(number(name, os.uname().machine)) for name in ("clone", "unshare", "mount", "clone3")]
AS_IN_A_CONTAINER = (sys.executable, "-c", _AS_IN_A_CONTAINER, *_NUMBERS)
USER = "12345"
# An ordinary user who can read this Python and this checkout, wherever they lie; none of it matters to the checks.
_CAPABILITY = "dac_read_search"
AS_A_USER = (
    "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--bounding-set", f"-all,+{_CAPABILITY}",
    "--inh-caps", f"-all,+{_CAPABILITY}", "--ambient-caps", f"+{_CAPABILITY}",
)  # fmt: skip


def setup(
    site: Site, *flags: str, wrap: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrap, sys.executable, "-m", "nono", "setup", *flags],
        cwd="/",
        env={**site.environment, **(environment or {}), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def as_json(site: Site, **how: Any) -> tuple[int, dict[str, Any]]:
    done = setup(site, "--check-only", "--json", **how)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def state_of(found: dict[str, Any], name: str) -> str:
    (state,) = (check["state"] for check in found["checks"] if check["name"] == name)
    return str(state)


def test_without_check_only_it_does_nothing(site: Site) -> None:
    done = setup(site)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nono: nono setup changes nothing yet; say what there is with: nono setup --check-only\n"


def test_lines_fit_a_terminal_and_begin_like_a_summary(site: Site) -> None:
    done = setup(site, "--check-only")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("nono  kernel ")
    assert all(line.startswith("      ") for line in lines[1:])
    assert all(len(line) <= 80 for line in lines), [line for line in lines if len(line) > 80]
    assert any(line.split()[:2] == ["wall", "works"] for line in lines)


def test_json_is_one_object_of_documented_shape(site: Site) -> None:
    status, found = as_json(site)
    assert list(found) == ["kernel", "checks", "walls"]
    assert found["kernel"]["release"] == os.uname().release
    for check in found["checks"]:
        assert list(check) == ["name", "state", "finding", "remedy"]
    for wall in found["walls"]:
        assert list(wall) == ["name", "mounts", "whole", "works", "reason", "enforces"]
        assert wall["works"] == (wall["reason"] == "")
    assert status == (0 if any(wall["works"] and wall["whole"] for wall in found["walls"]) else 1)
    documented = (Path(__file__).parent.parent.parent / "docs/setup.md").read_text()
    for name in [check["name"] for check in found["checks"]] + list(found["walls"][0]["enforces"]):
        assert f"`{name}`" in documented, name


def leftovers(site: Site) -> tuple[list[Path], set[str]]:
    """What is in the site's directories, and which processes of the test there are."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sorted(site.directory.rglob("*")), set(children)


def test_leaves_nothing_behind(site: Site) -> None:
    before = leftovers(site)
    mounts = Path("/proc/self/mountinfo").read_text()
    for _ in range(2):
        setup(site, "--check-only")
    assert leftovers(site) == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list(site.tmp.iterdir()) == []


@pytest.fixture
def user() -> tuple[str, ...]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    require_command("setpriv")
    return AS_A_USER


def test_as_an_ordinary_user(site: Site, user: tuple[str, ...]) -> None:
    status, found = as_json(site, wrap=user, environment={"TMPDIR": "/tmp"})
    assert status == 0
    assert found["walls"][0]["works"] or found["walls"][1]["works"]
    assert state_of(found, "session-store") == "ok"
    assert state_of(found, "file-store") == "missing"  # the site is root's


def test_what_would_stop_every_run_stops_every_wall(site: Site) -> None:
    status, found = as_json(site, environment={"TMPDIR": "/nonexistent"})
    assert status == 1
    assert all("Set TMPDIR" in wall["reason"] for wall in found["walls"])


def test_as_in_a_container(site: Site) -> None:
    """No namespaces: the checks name the container's profile, and the walls without namespaces are tried."""
    status, found = as_json(site, wrap=AS_IN_A_CONTAINER)
    for name in ("user-ns", "network-ns"):
        assert state_of(found, name) == "missing"
    (remedy,) = (check["remedy"] for check in found["checks"] if check["name"] == "user-ns")
    assert "seccomp=unconfined" in remedy
    works = {wall["name"]: wall["works"] for wall in found["walls"]}
    assert not works["namespace"]
    assert all("seccomp=unconfined" in wall["reason"] for wall in found["walls"] if wall["name"] == "namespace")
    assert status == (0 if works["notify"] else 1)


def test_without_landlock_nothing_stands(site: Site) -> None:
    status, found = as_json(site, wrap=WITHOUT_LANDLOCK)
    assert status == 1
    assert state_of(found, "landlock") == "missing"
    assert state_of(found, "user-ns") == "ok"
    assert not any(wall["works"] for wall in found["walls"])
    assert all("Landlock" in wall["reason"] for wall in found["walls"])


def test_a_user_without_locked_memory_is_told_of_the_limit(site: Site, user: tuple[str, ...]) -> None:
    require_command("prlimit")
    _, found = as_json(site, wrap=("prlimit", "--memlock=0:0", *user))
    (check,) = (check for check in found["checks"] if check["name"] == "secret-memory")
    assert (check["state"], "ulimit -l" in check["remedy"]) == ("missing", True)


def test_without_home_and_without_descriptors(site: Site) -> None:
    done = setup(site, "--check-only", environment={"HOME": ""})
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    done = setup(site, "--check-only", wrap=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
