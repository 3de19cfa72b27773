"""What this machine offers to nono, what is missing, and how to get it: the checks of `nono setup --check-only`.

Each check is a function that returns a Check. Where a thing can be tried it is tried, because a sysctl, a container's
seccomp profile and a kernel's configuration say less together than one call that succeeds; the settings then name the
cause of a failure, and with it the command that would enable more. What the spawn has a sentence for is said with it.

No check changes anything, asks the user anything, or waits longer than a few seconds: of the keystore nothing but its
state is read, and a service that does not run is not started. `root` is where /proc and /sys are looked for, so that
tests can have a machine of their own.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from errno import ENOSYS
from importlib.util import find_spec

from nono.credentials import keystore, secret_service, user_keyring
from nono.credentials.keystore import KeystoreError
from nono.errors import CredentialError, KernelError
from nono.kernel import cgroup, landlock, mountinfo, notify, seccomp, secretmem
from nono.kernel.spawn_errors import SENTENCES, SpawnError
from nono.policy.capabilities import SANDBOX_NOTIFY
from nono.record import Record
from nono.sandbox.syscalls import AUDIT_ARCH
from nono.supervisor import enforcement, limits
from nono.supervisor.enforcement import Row

OK = "ok"
LIMITED = "limited"  # it works, but enforces or offers less
MISSING = "missing"
UNKNOWN = "unknown"

_OLDEST = (5, 13)  # the first with Landlock
_LACKS = ((3, "truncation"), (4, "TCP ports"), (5, "ioctl on devices"), (6, "signals and abstract sockets"))
_NEWEST_NEEDED = "Linux 6.12 or newer"  # Landlock 6
_KILLABLE = "Linux 5.19 or newer"  # SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
_UNIFIED = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
_KEYSTORE_LIMITS = keystore.Limits(call_s=2.0, prompt_s=0.0)
_SYSCTLS_OF_USER_NS = (  # path below /proc/sys, the value that forbids, the command that allows
    ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
_YAMA = {
    0: "0: every process of the user may trace the others",
    1: "1: a process may trace its descendants, as nono does",
    2: "2: only who has CAP_SYS_PTRACE may trace",
    3: "3: nobody may trace, until the next boot",
}


class Check(Record):
    """One fact of the machine. state: OK, LIMITED, MISSING or UNKNOWN. remedy: what would enable more; "" for nothing.

    Where the remedy is a command or holds one, it can be copied as it stands.
    """

    name: str
    state: str
    finding: str
    remedy: str = ""


class Stand(Record):
    """A wall on this machine. reason: why it does not work; "" where it does. enforces: as enforcement.enforced."""

    row: Row
    reason: str
    enforces: Mapping[str, str]


def read(root: str, path: str) -> str | None:
    """Return what is in a small file of the kernel's, without white space at its ends; None where there is none."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read(65536).strip(" \n\0")
    except OSError:
        return None


def check_kernel(system: str, release: str, machine: str) -> Check:
    """Check system, release and architecture, as os.uname() has them."""
    finding = f"{system} {release} on {machine}"
    if system != "Linux":
        return Check("kernel", MISSING, finding, "nono run starts agents on Linux only")
    if machine not in AUDIT_ARCH:
        return Check("kernel", MISSING, finding, f"nono runs on {' and '.join(AUDIT_ARCH)}")
    if _version(release) < _OLDEST:
        return Check("kernel", MISSING, finding, f"boot {_NEWEST_NEEDED} (5.13 at least)")
    return Check("kernel", OK, finding)


def _version(release: str) -> tuple[int, ...]:
    parts = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        parts.append(int(digits or 0))
    return tuple(parts)


def check_landlock(abi: int, error: int) -> Check:
    """Check Landlock. abi: its version, 0 for none; then `error` is the errno with which a ruleset was refused."""
    if abi < 1:
        finding = f"landlock_create_ruleset: {os.strerror(error)}"
        return Check("landlock", MISSING, finding, SENTENCES.get(("landlock", error), ""))
    lacks = [right for least, right in _LACKS if abi < least]
    if lacks:
        finding = f"ABI {abi}: does not confine {', '.join(lacks)}"
        return Check("landlock", LIMITED, finding, f"boot {_NEWEST_NEEDED}")
    return Check("landlock", OK, f"ABI {abi}")


def ruleset_error() -> int:
    """Return the errno with which this kernel refuses a Landlock ruleset; 0 when it makes one."""
    try:
        os.close(landlock.create_ruleset(landlock.FS_EXECUTE))
    except KernelError as error:
        return error.errno or ENOSYS
    return 0


def check_lsm(root: str = "/") -> Check:
    """List the security modules in force."""
    active = read(root, "sys/kernel/security/lsm")
    if active is None:
        command = "sudo mount -t securityfs securityfs /sys/kernel/security"
        return Check("lsm", UNKNOWN, "securityfs is not mounted here", command)
    return Check("lsm", OK, active.replace(",", ", "))


def check_user_ns(error: SpawnError | None, root: str = "/") -> Check:
    """Check user namespaces. error: what came of making one."""
    if error is None:
        return Check("user-ns", OK, "can be made")
    remedy = str(error)
    for path, forbids, command in _SYSCTLS_OF_USER_NS:
        if read(root, f"proc/sys/{path}") == forbids:
            remedy = command
            break
    return Check("user-ns", MISSING, f"{error.step}: {os.strerror(error.errno or 0)}", remedy)


def check_nested_ns(name: str, error: SpawnError | None, user: Check) -> Check:
    """Check namespaces that are made within one of the user's own. error: what came of making them together."""
    if error is None:
        return Check(name, OK, "can be made")
    if user.state != OK:
        return Check(name, MISSING, "needs a user namespace", "")
    return Check(name, MISSING, f"{error.step}: {os.strerror(error.errno or 0)}", str(error))


def check_seccomp(root: str = "/") -> Check:
    """Check that seccomp filters can be installed; none is."""
    error = seccomp.refused(0)
    if error:
        finding = f"seccomp: {os.strerror(error)}"
        return Check("seccomp", MISSING, finding, SENTENCES.get(("seccomp", error), SENTENCES["seccomp", ENOSYS]))
    count = _status_field(root, "Seccomp_filters")
    around = "" if count in ("", "0") else f"; around nono already: {count}"
    return Check("seccomp", OK, f"filters can be installed{around}")


def check_notify(root: str = "/") -> Check:
    """Check what the mediator of connections needs of the kernel."""
    try:
        notify.check()
    except KernelError as error:
        return Check("notify", MISSING, f"{error.call}: {os.strerror(error.errno or 0)}", str(error))
    if notify.yama_forbids(notify.yama_scope(root)):
        finding = "Yama forbids to take a socket from the agent"
        return Check("notify", MISSING, finding, check_yama(root).remedy)
    if seccomp.refused(seccomp.NEW_LISTENER | seccomp.WAIT_KILLABLE_RECV):
        return Check("notify", LIMITED, "a signal can break a connect under way", f"boot {_KILLABLE}")
    return Check("notify", OK, "user notification, pidfd_getfd")


def check_yama(root: str = "/") -> Check:
    """Check who may take a descriptor out of another process, as the mediator does."""
    scope = notify.yama_scope(root)
    if scope is None:
        return Check("yama", OK, "not active")
    finding = _YAMA.get(scope, str(scope))
    if not notify.yama_forbids(scope):
        return Check("yama", OK, finding)
    return Check("yama", LIMITED, finding, notify.yama_remedy(scope))


def check_apparmor(root: str = "/") -> Check:
    """Check whether AppArmor confines this process."""
    if not (read(root, "sys/module/apparmor/parameters/enabled") or "").startswith("Y"):
        return Check("apparmor", OK, "not active")
    label = read(root, "proc/self/attr/apparmor/current") or read(root, "proc/self/attr/current")
    if label is None:
        return Check("apparmor", UNKNOWN, "active; the profile of this process cannot be read")
    if label == "unconfined":
        return Check("apparmor", OK, "active; this process is unconfined")
    remedy = "give this profile `userns,` and `mount,`, or run nono outside of it"
    return Check("apparmor", LIMITED, f"this process runs under {label}", remedy)


def check_cgroup(root: str = "/") -> Check:
    """Check whether a run may have a control group of its own, for memory and processes together.

    By reading only: what a run does to get one (nono/kernel/cgroup.py) leaves controllers switched on.
    """
    proc = os.path.join(root, "proc")
    groups = [os.path.join(root, group.strip("/")) for group in cgroup.groups(proc)]
    has_v1 = _has_cgroup_v1(proc)
    if not groups:
        remedy = _UNIFIED if has_v1 else "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        return Check("cgroup", LIMITED, "no cgroup v2: limits for each process", remedy)
    if lacks := {"memory", "pids"} - set((read(groups[-1], "cgroup.controllers") or "").split()):
        finding = f"v2 lacks {' and '.join(sorted(lacks))}: limits for each process"
        return Check("cgroup", LIMITED, finding, _UNIFIED if has_v1 else "")
    if any(map(_is_delegated, groups)):
        return Check("cgroup", OK, "v2, delegated, with memory and pids")
    has_manager = limits.has_user_manager(root)
    remedy = f"{limits.SCOPE} nono run …" if has_manager else "sudo loginctl enable-linger $USER"
    return Check("cgroup", LIMITED, "v2 is not delegated: limits for each process", remedy)


def _has_cgroup_v1(proc: str) -> bool:
    try:
        return any(mounted.type == "cgroup" for mounted in mountinfo.read(f"{proc}/self/mountinfo"))
    except OSError:
        return False


def _is_delegated(directory: str) -> bool:
    """Whether this user may make a group with the controllers below `directory`, and move a process there."""
    wanted = {"memory", "pids"}
    if not os.access(os.path.join(directory, "cgroup.procs"), os.W_OK) or not os.access(directory, os.W_OK):
        return False
    if wanted <= set((read(directory, "cgroup.subtree_control") or "").split()):
        return True
    # Only who holds no processes can have children with controllers; but for the root, which alone has no type.
    is_free = read(directory, "cgroup.procs") == "" or not os.path.exists(os.path.join(directory, "cgroup.type"))
    may_switch = os.access(os.path.join(directory, "cgroup.subtree_control"), os.W_OK)
    return is_free and may_switch and wanted <= set((read(directory, "cgroup.controllers") or "").split())


def check_terminal() -> Check:
    """Check that pseudo-terminals can be made; one is, and closed."""
    here = "" if any(map(os.isatty, (0, 1, 2))) else "; no terminal here"
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError as error:
        remedy = "sudo mount -t devpts -o ptmxmode=0666 devpts /dev/pts"
        return Check("terminal", MISSING, f"no pseudo-terminal: {error.strerror}", remedy)
    return Check("terminal", OK, f"pseudo-terminals{here}")


def check_secret_memory() -> Check:
    """Check that memory for keys can be locked, and how well it is kept; one page is, and given back."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB"
    try:
        kind = secretmem.secret_memory_kind()
        secretmem.SecretBuffer(1, backing=kind).close()
    except KernelError as error:
        return Check("secret-memory", MISSING, f"RLIMIT_MEMLOCK is {limit}", str(error))
    if kind == secretmem.MLOCK:
        finding = f"locked memory, no memfd_secret; limit {limit}"
        return Check("secret-memory", LIMITED, finding, "boot Linux 6.5 or newer, or with secretmem.enable=1")
    return Check("secret-memory", OK, f"memfd_secret; limit {limit}")


def check_secret_service() -> Check:
    """Ask for the state of the desktop's keystore. A service that does not run is not started; no dialog opens."""
    name = "secret-service"
    try:
        opened = secret_service.Keystore(_KEYSTORE_LIMITS, lambda: None)
        try:
            state = opened.state()
        finally:
            opened.close()
    except KeystoreError as error:
        remedy = "nono credential set NAME --store file, or --store session"
        if error.status == keystore.NO_SERVICE:
            remedy = "sudo apt install gnome-keyring (or KWallet, KeePassXC), or --store file"
        return Check(name, MISSING, keystore.reason(error.status), remedy)
    if state == secret_service.LOCKED and not keystore.has_display():
        return Check(name, LIMITED, keystore.reason(keystore.LOCKED), "unlock it, or use --store file")
    return Check(name, OK, state)


def check_session_store() -> Check:
    """Check the kernel's keyring of this user."""
    try:
        count = len(user_keyring.names())
    except CredentialError as error:
        return Check("session-store", MISSING, "the kernel's keyring cannot be used", str(error))
    return Check("session-store", OK, f"the kernel's keyring; holds {count}")


def check_file_store(state_home: str) -> Check:
    """Check that keys can be kept in files. state_home: nono's state directory, which need not exist."""
    place = state_home
    while not os.path.lexists(place) and place != "/":
        place = os.path.dirname(place)
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        return Check("file-store", MISSING, f"{place} cannot be written", "set XDG_STATE_HOME to a directory of yours")
    return Check("file-store", OK, state_home)


def check_intercept() -> Check:
    """Check that TLS can be intercepted, which needs a library."""
    if find_spec("cryptography") is None:
        return Check("intercept", MISSING, "TLS cannot be intercepted", "pip install 'nono[intercept]'")
    return Check("intercept", OK, "TLS can be intercepted")


def examine(state_home: str, root: str = "/") -> list[Check]:
    """Return all checks of this machine, in the order in which they are shown."""
    uname = os.uname()
    first = check_kernel(uname.sysname, uname.release, uname.machine)
    if sys.platform != "linux":
        return [first, check_terminal(), check_file_store(state_home), check_intercept()]
    user = check_user_ns(enforcement.attempt_user_namespace(), root)
    return [
        first,
        check_landlock(landlock.abi(), ruleset_error()),
        check_lsm(root),
        user,
        check_nested_ns("network-ns", enforcement.attempt_network_namespace(), user),
        check_nested_ns("mount-ns", enforcement.attempt_mount_namespace(), user),
        check_seccomp(root),
        check_notify(root),
        check_yama(root),
        check_apparmor(root),
        check_cgroup(root),
        check_terminal(),
        check_secret_memory(),
        check_secret_service(),
        check_session_store(),
        check_file_store(state_home),
        check_intercept(),
    ]


def examine_walls(checks: list[Check], home: str) -> list[Stand]:
    """Return every wall, tried, in the order in which a run tries them."""
    of = {check.name: check for check in checks}
    if "landlock" not in of:
        nothing = dict.fromkeys(enforcement.ASPECTS, enforcement.NONE)
        return [Stand(row, f"{checks[0].remedy}.", nothing) for row in enforcement.TABLE]
    scopes, cgroup = of["landlock"].state == OK, of["cgroup"].state == OK
    stands = []
    for row in enforcement.TABLE:
        reason = enforcement.attempt(row.wall, home)
        if not reason and row.wall.name == SANDBOX_NOTIFY and of["notify"].state == MISSING:
            reason = f"{of['notify'].finding}: {of['notify'].remedy}"  # nothing was mediated in the attempt
        stands.append(Stand(row, reason, enforcement.enforced(row, scopes=scopes, cgroup=cgroup)))
    return stands


def _lines(root: str, path: str) -> list[str]:
    return (read(root, path) or "").splitlines()


def _status_field(root: str, name: str) -> str:
    """Return a field of /proc/self/status; "" where there is none."""
    for line in _lines(root, "proc/self/status"):
        field, _, value = line.partition(":")
        if field == name:
            return value.strip()
    return ""
