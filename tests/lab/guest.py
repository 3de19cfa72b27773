"""/init of a lab's machine: the first process, which makes an ordinary system of it, runs the tests and shuts down.

Order: file systems, an address that is not loopback's, control groups, then one pytest for root or for an ordinary
user, as the kernel's command line says:

    lab.root=DIRECTORY       the tree that nono and its tests are in
    lab.tests=FILE,FILE…     what to run, from there
    lab.user=UID             who runs it (root when absent)
    lab.sandbox=WALL         the wall that tests/confined.py puts up (NONO_TEST_SANDBOX)

What the kernel can do is told first ("facts"), and last that all is done ("end"), on the second serial port.

The file system that an initramfs is unpacked into cannot be left (pivot_root(2) fails there), which is so on no real
machine: it is bound over itself first, and the bind is what everything runs in.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import traceback

USER = 12345
PORT = "/dev/ttyS1"
ADDRESS, NETMASK = "192.0.2.7", "255.255.255.0"  # TEST-NET-1 (RFC 5737)
# linux/mount.h, linux/sockios.h, linux/if.h, linux/reboot.h
MS_BIND, MS_MOVE, MS_REC, MS_SHARED = 0x1000, 0x2000, 0x4000, 0x100000
SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFNETMASK, IFF_UP = 0x8916, 0x8914, 0x891C, 1
RB_POWER_OFF = 0x4321FEDC
MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("mqueue", "/dev/mqueue", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/var/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
)
TEMPORARY = ("/tmp", "/var/tmp")
FACTS = {
    "uptime": "/proc/uptime",
    "lsm": "/sys/kernel/security/lsm",
    "max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "ptrace_scope": "/proc/sys/kernel/yama/ptrace_scope",
}
PYTEST = (
    "-q", "-p", "tests.lab.report", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "--tb=short",
    "--continue-on-collection-errors",
)  # fmt: skip

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()):
        raise OSError(ctypes.get_errno(), f"mount {kind} on {target}")


def leave_the_first_file_system() -> None:
    os.mkdir("/new")
    mount("/", "/new", flags=MS_BIND)
    os.chdir("/new")
    mount("/new", "/", flags=MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.rmdir("/new")
    mount("", "/", flags=MS_SHARED | MS_REC)  # as systemd has it


def make_file_systems() -> None:
    for kind, target, data in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if target in TEMPORARY and os.listdir(target):
            os.chmod(target, 0o1777)  # the image has files there (a checkout in /tmp), which a mount would cover
        else:
            mount(kind, target, kind, data=data)
    for name, target in (("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")):
        os.symlink(f"/proc/{target}", f"/dev/{name}")
    for home, owner in (("/root", 0), ("/home/user", USER), (f"/run/user/{USER}", USER)):
        os.makedirs(home, exist_ok=True)
        os.chown(home, owner, owner)


def make_network() -> None:
    """Bring loopback up, with an address of another network besides its own, at which the machine answers too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for request, address in ((SIOCSIFADDR, ADDRESS), (SIOCSIFNETMASK, NETMASK)):
            octets = socket.inet_aton(address)
            fcntl.ioctl(control, request, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, octets))
    write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")


def make_control_groups() -> None:
    """Give the user a subtree of his own, as systemd does for one who is logged in."""
    top = "/sys/fs/cgroup"
    os.mkdir(f"{top}/system")
    write(f"{top}/system/cgroup.procs", "0")
    write(f"{top}/cgroup.subtree_control", "+memory +pids")
    os.makedirs(f"{top}/user/session")
    write(f"{top}/user/cgroup.subtree_control", "+memory +pids")
    for directory in (f"{top}/user", f"{top}/user/session"):
        for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(f"{directory}/{name}", USER, USER)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def parameters() -> dict[str, str]:
    with open("/proc/cmdline", encoding="ascii") as file:
        words = file.read().split()
    return {name: value for name, _, value in (word.removeprefix("lab.").partition("=") for word in words)}


def facts() -> dict[str, str]:
    found = {"release": os.uname().release}
    for name, path in FACTS.items():
        if os.path.exists(path):
            with open(path, encoding="ascii") as file:
                found[name] = file.read().strip()
    return found


def tell(**fields: object) -> None:
    with open(PORT, "w", encoding="ascii") as port:
        port.write(json.dumps(fields) + "\n")


def run_tests(wanted: dict[str, str]) -> None:
    """Become the user who tests, and pytest."""
    user = int(wanted.get("user", "0"))
    if user:
        write("/sys/fs/cgroup/user/session/cgroup.procs", "0")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    os.setsid()
    os.chdir(wanted["root"])
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/home/user" if user else "/root",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NONO_LAB": "1",  # what is always so here is not skipped where it is not
        **({"NONO_TEST_SANDBOX": wanted["sandbox"]} if "sandbox" in wanted else {}),
    }
    command = [sys.executable, "-m", "pytest", *PYTEST, *wanted["tests"].split(",")]
    os.execve(command[0], command, environment)


def main() -> None:
    leave_the_first_file_system()
    os.umask(0o022)
    make_file_systems()
    make_network()
    make_control_groups()
    wanted = parameters()
    os.chmod(PORT, 0o666)
    tell(facts=facts())
    pid = os.fork()
    if pid == 0:
        run_tests(wanted)
    while (ended := os.wait())[0] != pid:  # orphans come to the first process
        pass
    tell(end=os.waitstatus_to_exitcode(ended[1]))


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 (the first process must not end; the console has the reason)
        traceback.print_exc()
    finally:
        os.sync()
        libc.reboot(RB_POWER_OFF)
