"""The checks of a machine: on machines made of files, and on this one."""

from __future__ import annotations

import os
import sys
from errno import EINVAL, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM
from pathlib import Path

import pytest

from nono.kernel import process
from nono.kernel.spawn_errors import SENTENCES, SpawnError
from nono.supervisor import enforcement, machine
from nono.supervisor.machine import LIMITED, MISSING, OK, UNKNOWN, Check
from tests.keyring_service import KeyringService


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def put(root: Path, **files: str) -> str:
    """Write files below `root`: `proc__sys` stands for proc/sys. Return the root as the checks take it."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def failed(step: str, errno: int) -> SpawnError:
    return SpawnError(step, errno, SENTENCES.get((step, errno), "no sentence"))


# The kernel.


@pytest.mark.parametrize(
    ("release", "state"),
    [
        ("6.18.44-generic", OK),
        ("5.13.0", OK),
        ("5.12.19-lts", MISSING),
        ("5.4", MISSING),
        ("7.0-rc1", OK),
        ("10.1", OK),
        ("", MISSING),
    ],
)
def test_the_kernel_has_to_be_one_with_landlock(release: str, state: str) -> None:
    assert machine.check_kernel("Linux", release, "x86_64").state == state


def test_other_systems_and_architectures_are_named() -> None:
    assert "Linux only" in machine.check_kernel("Darwin", "24.0", "arm64").remedy
    assert machine.check_kernel("Linux", "6.18", "riscv64").remedy == "nono runs on x86_64 and aarch64"


@pytest.mark.parametrize(
    ("abi", "lacking"),
    [
        (1, "truncation, TCP ports, ioctl on devices, signals"),
        (2, "truncation"),
        (3, "TCP"),
        (4, "ioctl"),
        (5, "signals"),
    ],
)
def test_an_old_landlock_says_what_it_does_not_confine(abi: int, lacking: str) -> None:
    check = machine.check_landlock(abi, 0)
    assert (check.state, check.remedy) == (LIMITED, "boot Linux 6.12 or newer")
    assert check.finding.startswith(f"ABI {abi}: does not confine {lacking}")


def test_a_new_landlock_lacks_nothing() -> None:
    assert machine.check_landlock(6, 0) == Check("landlock", OK, "ABI 6")


@pytest.mark.parametrize("error", [ENOSYS, EOPNOTSUPP, EPERM])
def test_no_landlock_is_said_in_the_words_of_the_spawn(error: int) -> None:
    check = machine.check_landlock(0, error)
    assert (check.state, check.remedy) == (MISSING, SENTENCES["landlock", error])


def test_security_modules(root: Path) -> None:
    assert machine.check_lsm(str(root)).state == UNKNOWN
    assert "mount -t securityfs" in machine.check_lsm(str(root)).remedy
    lsm = put(root, sys__kernel__security__lsm="lockdown,capability,landlock,yama\n")
    assert machine.check_lsm(lsm) == Check("lsm", OK, "lockdown, capability, landlock, yama")


# Namespaces.


@pytest.mark.parametrize(
    ("path", "value", "command"),
    [
        ("user__max_user_namespaces", "0\n", "user.max_user_namespaces=15000"),
        ("kernel__unprivileged_userns_clone", "0\n", "kernel.unprivileged_userns_clone=1"),
        ("kernel__apparmor_restrict_unprivileged_userns", "1\n", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ],
)
def test_a_setting_that_forbids_user_namespaces_is_the_remedy(root: Path, path: str, value: str, command: str) -> None:
    here = put(root, **{f"proc__sys__{path}": value})
    check = machine.check_user_ns(failed("clone", EPERM), here)
    assert (check.state, check.remedy) == (MISSING, f"sudo sysctl {command}")


def test_what_works_is_believed_whatever_the_settings_say(root: Path) -> None:
    here = put(root, proc__sys__kernel__apparmor_restrict_unprivileged_userns="1")
    assert machine.check_user_ns(None, here).state == OK


def test_forbidden_without_a_setting_the_spawn_explains(root: Path) -> None:
    here = put(root, proc__sys__user__max_user_namespaces="15000")
    check = machine.check_user_ns(failed("clone", EPERM), here)
    assert check.remedy == SENTENCES["clone", EPERM]
    assert "seccomp=unconfined" in check.remedy


def test_a_namespace_within_another_is_explained_where_it_failed() -> None:
    user = Check("user-ns", OK, "")
    check = machine.check_nested_ns("network-ns", failed("clone", ENOSPC), user)
    assert (check.state, check.remedy) == (MISSING, SENTENCES["clone", ENOSPC])
    assert machine.check_nested_ns("network-ns", None, user).state == OK
    without = machine.check_nested_ns("network-ns", failed("clone", EPERM), Check("user-ns", MISSING, ""))
    assert (without.state, without.remedy) == (MISSING, "")


# Who may do what to whom.


def test_yama(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "has_capability", lambda _: False)
    assert machine.check_yama(str(root)) == Check("yama", OK, "not active")
    for scope, state in (("0", OK), ("1", OK), ("2", LIMITED), ("3", LIMITED)):
        here = put(root, proc__sys__kernel__yama__ptrace_scope=f"{scope}\n")
        assert machine.check_yama(here).state == state, scope
    assert "reboot" in machine.check_yama(here).remedy
    monkeypatch.setattr(process, "has_capability", lambda number: number == process.CAP_SYS_PTRACE)
    assert machine.check_yama(put(root, proc__sys__kernel__yama__ptrace_scope="2")).state == OK
    assert machine.check_yama(put(root, proc__sys__kernel__yama__ptrace_scope="3")).state == LIMITED  # also for root


def test_apparmor(root: Path) -> None:
    assert machine.check_apparmor(str(root)).finding == "not active"
    here = put(root, sys__module__apparmor__parameters__enabled="Y\n")
    assert machine.check_apparmor(here).state == UNKNOWN
    put(root, proc__self__attr__current="unconfined\n")
    assert machine.check_apparmor(here).state == OK
    put(root, proc__self__attr__apparmor__current="docker-default (enforce)\n")
    check = machine.check_apparmor(here)
    assert (check.state, check.finding) == (LIMITED, "this process runs under docker-default (enforce)")


def test_a_selinux_label_is_no_apparmor_profile(root: Path) -> None:
    here = put(root, proc__self__attr__current="unconfined_u:unconfined_r:unconfined_t:s0\0")
    assert machine.check_apparmor(here).finding == "not active"


def test_filters_around_nono_are_counted(root: Path) -> None:
    check = machine.check_seccomp(put(root, proc__self__status="Name:\tx\nSeccomp_filters:\t0\n"))
    assert check.finding == "filters can be installed"
    check = machine.check_seccomp(put(root, proc__self__status="Seccomp_filters:\t2\n"))
    assert check.finding == "filters can be installed; around nono already: 2"


def test_asking_for_seccomp_installs_nothing() -> None:
    before = Path("/proc/self/status").read_text().partition("Seccomp:")[2][:40]
    machine.check_seccomp()
    machine.check_notify()
    assert Path("/proc/self/status").read_text().partition("Seccomp:")[2][:40] == before


# Control groups.

_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
_V1 = "33 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def group(root: Path, path: str, *, controllers: str = "", switched_on: str = "", procs: str = "1\n") -> None:
    directory = root / "sys/fs/cgroup" / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.controllers").write_text(controllers)
    (directory / "cgroup.subtree_control").write_text(switched_on)
    (directory / "cgroup.procs").write_text(procs)
    if path:
        (directory / "cgroup.type").write_text("domain\n")


@pytest.fixture
def in_app(root: Path) -> Path:
    """A machine whose process is in the group /user/app."""
    put(root, proc__self__cgroup="0::/user/app\n", proc__self__mountinfo=_V2)
    group(root, "", controllers="cpu memory pids", switched_on="memory pids")
    (root / "sys/fs/cgroup/cgroup.procs").unlink()  # root's: not ours
    return root


def test_a_delegated_group_above_the_own_one(in_app: Path) -> None:
    group(in_app, "user", controllers="memory pids", switched_on="memory pids", procs="")
    group(in_app, "user/app", controllers="memory pids")
    assert machine.check_cgroup(str(in_app)).state == OK


def test_a_group_whose_controllers_can_be_switched_on(in_app: Path) -> None:
    group(in_app, "user", controllers="memory pids", procs="")
    group(in_app, "user/app")
    assert machine.check_cgroup(str(in_app)).state == OK
    assert (in_app / "sys/fs/cgroup/user/cgroup.subtree_control").read_text() == ""


def test_a_group_that_holds_processes_gives_none_away(in_app: Path) -> None:
    group(in_app, "user/app", controllers="memory pids")
    check = machine.check_cgroup(str(in_app))
    assert (check.state, "not delegated" in check.finding) == (LIMITED, True)
    assert check.remedy == "sudo loginctl enable-linger $USER"
    put(in_app, **{f"run__user__{os.getuid()}__systemd__private": ""})
    assert machine.check_cgroup(str(in_app)).remedy.startswith("systemd-run --user --scope")


def test_controllers_that_the_old_hierarchy_has(in_app: Path) -> None:
    put(in_app, proc__self__mountinfo=_V1 + _V2)
    (in_app / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    check = machine.check_cgroup(str(in_app))
    assert (check.state, "lacks memory and pids" in check.finding) == (LIMITED, True)
    assert "unified_cgroup_hierarchy" in check.remedy


def test_no_control_groups(root: Path) -> None:
    assert "mount -t cgroup2" in machine.check_cgroup(str(root)).remedy


# Stores.


def test_the_file_store_need_not_be_there_yet(tmp_path: Path) -> None:
    check = machine.check_file_store(f"{tmp_path}/a/b/nono")
    assert check == Check("file-store", OK, f"{tmp_path}/a/b/nono")
    assert list(tmp_path.iterdir()) == []


def test_a_file_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no directory")
    assert machine.check_file_store(f"{tmp_path}/a/nono").state == MISSING


def test_an_unlocked_keystore(
    keyring: KeyringService, desktop: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in desktop.items():
        monkeypatch.setenv(name, value)
    check = machine.check_secret_service()
    assert check.state == OK
    assert check.finding in ("unlocked", "empty")


def test_no_keystore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    check = machine.check_secret_service()
    assert (check.state, check.finding) == (MISSING, "there is no D-Bus session bus here, so no Secret Service")
    assert "--store file" in check.remedy


# The whole of it.


def test_every_check_has_a_state_and_fits_its_name() -> None:
    checks = machine.examine("/nonexistent/nono")
    assert {check.state for check in checks} <= {OK, LIMITED, MISSING, UNKNOWN}
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.finding for check in checks)


def test_without_linux_no_wall_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Darwin", "mac", "24.0", "", "arm64")))
    stands = machine.examine_walls(machine.examine("/nonexistent/nono"), "/nonexistent")
    assert len(stands) == len(enforcement.TABLE)
    assert all("Linux only" in stand.reason for stand in stands)


def test_yama_keeps_an_ordinary_user_from_the_notifier(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "has_capability", lambda _: False)
    here = put(root, proc__sys__kernel__yama__ptrace_scope="2")
    check = machine.check_notify(here)
    assert (check.state, check.remedy) == (MISSING, "sudo sysctl kernel.yama.ptrace_scope=1")
    put(root, proc__sys__kernel__yama__ptrace_scope="1")
    assert machine.check_notify(here).state == OK


def test_a_wrong_errno_is_no_crash() -> None:
    assert machine.check_user_ns(failed("clone", EINVAL)).state == MISSING
