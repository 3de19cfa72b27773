"""The walls hold on older and newer kernels: Debian's, each started under QEMU, with these very tests inside.

A machine of the lab is a kernel (kernels.py), a file system made of this machine's files (image.py), and a way to start
both (machine.py). Its first process (guest.py) runs pytest; what became of each test comes back over a serial port
(report.py). Here it is decided which machines there are, and what has to come back: no failure, an end, enough tests
that passed, and skips for reasons that are known.

The oldest and the newest series that this machine's apt offers are tested. On Debian 12: 6.1, whose Landlock (ABI 2)
knows neither truncation nor ports nor signals, and 6.12 (ABI 6).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab import image, kernels, machine
from tests.runs import missing

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.uname().machine != "x86_64", reason="the lab is for x86-64")]

PROMISES = "tests/promises/test_p"
ATTACKS = tuple(f"{PROMISES}{name}.py" for name in ("1_processes", "3_network", "6_files", "11_provenance"))
RUNS = tuple(
    f"{PROMISES}{name}.py" for name in ("1_credentials", "2_one_copy", "4_hosts", "5_own_upstream", "7_fail_closed")
)
CHOICES = "tests/lab/choices.py::test_"
# The machine has a subtree of control groups for the user (guest.py), with memory and pids.
LIMITS = ("tests/kernel/test_cgroup.py", "tests/supervisor/test_limits.py", "tests/e2e/test_limits.py")
NO_USER_NAMESPACES = "sysctl.user.max_user_namespaces=0"
NO_NAMESPACES_FOR_USERS = "sysctl.kernel.unprivileged_userns_clone=0"  # Debian's own
NO_LANDLOCK = "lsm=capability,yama"
PTRACE_FOR_ROOT = "sysctl.kernel.yama.ptrace_scope=2"


class Start(NamedTuple):
    """tests: what runs inside. wall: which one tests/confined.py puts up. user: who runs them. passed: at least."""

    tests: tuple[str, ...]
    passed: int
    wall: str = ""
    user: int = image.USER
    parameters: tuple[str, ...] = ()


MACHINES = {
    "namespaces": Start(ATTACKS, 500, "namespace", user=0),
    "namespaces without mounts": Start(ATTACKS, 500, "bare", user=0),
    "notifier": Start(ATTACKS, 450, "notify", user=0, parameters=(NO_USER_NAMESPACES,)),
    "whole runs": Start((*RUNS, f"{CHOICES}namespaces"), 30),
    "whole runs, notifier": Start((*RUNS, f"{CHOICES}a_notifier"), 30, parameters=(NO_NAMESPACES_FOR_USERS,)),
    "limits": Start(LIMITS, 69),
    "limits of root": Start(LIMITS[-1:], 9, user=0),
    "no Landlock": Start((f"{CHOICES}no_wall_without_landlock",), 1, parameters=(NO_LANDLOCK,)),
    "no tracing": Start(
        (f"{CHOICES}no_restricted_network_without_tracing",), 1, parameters=(NO_USER_NAMESPACES, PTRACE_FOR_ROOT)
    ),
}
# Why a test may be skipped inside: what the kernel itself refuses differs by kernel, and some programs are left out.
KNOWN_SKIPS = re.compile(
    r"was stopped, but without the sandbox the kernel itself says"
    r"|without LANDLOCK_ACCESS_FS_TRUNCATE|Landlock \d does not confine signals|this kernel has no memfd_secret"
    r"|this wall has no|only root can|(dbus-daemon|secret-tool|gnome-keyring-daemon|gdbus|unshare) is missing"
)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lab") / "initramfs"
    image.make(target)
    return target


@pytest.fixture(params=["oldest", "newest"], scope="session")
def kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    if shutil.which("qemu-system-x86_64") is None:
        missing("qemu-system-x86_64")
    found = kernels.offered()
    if not found:
        pytest.skip("apt offers no linux-image-*-cloud-amd64 here: the lab needs Debian")
    series = list(found)[0 if request.param == "oldest" else -1]
    if request.param == "newest" and len(found) == 1:
        pytest.skip(f"apt offers one series only, {series}")
    try:
        return kernels.fetch(series, found[series])
    except subprocess.CalledProcessError as error:
        missing(f"{found[series]} ({error})")


@pytest.mark.parametrize("name", MACHINES)
def test_the_wall_holds(name: str, kernel: kernels.Kernel, archive: Path, tmp_path: Path) -> None:
    wanted = MACHINES[name]
    parameters = [f"lab.root={image.ROOT}", f"lab.tests={','.join(wanted.tests)}", f"lab.user={wanted.user}"]
    if wanted.wall:
        parameters.append(f"lab.sandbox={wanted.wall}")
    done = machine.start(kernel, archive, [*parameters, *wanted.parameters], tmp_path)
    print(f"{done.facts}; {done.duration_s:.0f} s; {len(done.of('passed'))} passed, {len(done.of('skipped'))} skipped")
    assert done.complete, f"the machine did not come to an end; its console:\n{done.console[-5000:]}"
    assert [f"{result.test}\n{result.why}" for result in done.of("failed")] == []
    assert [f"{result.test}: {result.why}" for result in done.of("skipped") if not KNOWN_SKIPS.search(result.why)] == []
    assert len(done.of("passed")) >= wanted.passed
    assert kernel.series == ".".join(done.facts["release"].split(".")[:2])
