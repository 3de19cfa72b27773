"""The child's own view of the file system, where it can have a mount namespace: a list of steps for its init.

Landlock says what may be read and written; what it cannot do is done here, on top of it:

- everything outside of the writable grants is read-only, so that chmod, chown, utime and setxattr, which Landlock does
  not restrict, reach nothing else. All is made read-only at once; each grant is then mounted on itself, by a copy of
  what was opened that is writable before it is anywhere to be seen;
- a pinned file is mounted on itself, read-only: a mount point cannot be written, removed, renamed, or replaced by
  renaming something over it, while other files can be made beside it. The directories between the grant and the file
  are mounted on themselves as well, writable, and so are those between the agent's own /tmp and a grant in it: else one
  of them could be renamed, and another made in its place. What that costs: rename(2) and link(2) out of such a
  directory are EXDEV (mv copies then);
- what is denied inside a granted directory is covered by something empty that nobody may open, so that not even its
  names show. Landlock denies it as well. Where /dev, which holds that something, stays the machine's, it is read-only;
- /proc is that of the PID namespace: the agent sees its own processes;
- /tmp is the run's temporary directory. What is granted below the real /tmp stays where it is, sockets too;
- /dev holds the few devices that programs need, terminals of the run's own, and an empty /dev/shm.

Nothing is made on the user's disk but mount points inside the run's temporary directory. Steps that name something that
has vanished since are left out. Where a grant is around /tmp, /dev or /dev/pts, or /dev/shm or something below /tmp or
/dev/shm is granted in part only, or a granted socket is not there yet, that one stays the machine's.

Pure. Sources: mount(2), mount_setattr(2), mount_namespaces(7), pts(4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from nono.kernel import landlock
from nono.kernel.spawn import (
    MOUNT_BIND,
    MOUNT_BIND_READ_ONLY,
    MOUNT_BIND_WRITABLE,
    MOUNT_DIRECTORY,
    MOUNT_FILE,
    MOUNT_LINK,
    MOUNT_MOVE,
    MOUNT_NEW,
    MOUNT_READ_ONLY,
    MOUNT_WRITABLE,
    Mount,
)
from nono.policy.capabilities import READ, WRITE, is_at_or_below
from nono.record import Record
from nono.sandbox.expansion import ABSENT, DIRECTORY, EXPANDED, FILE, STREAM, Entry, Expansion, Piece, ancestors

# MS_*: mount(2)
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8

_STAGE = "/proc"  # always there, not needed while the new /dev is made on top of it, and never granted in part
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_SHARED_MEMORY = "mode=1777,size=1g"  # what the host's own has by default is half of its memory
_COVER_FILE, _COVER_DIRECTORY = ".covered-file", ".covered-directory"

_READ = landlock.FS_READ_FILE | landlock.FS_READ_DIR
DIRECTORY_WRITE = (  # the rights that a writable directory has; plan.py
    landlock.FS_WRITE_FILE
    | landlock.FS_TRUNCATE
    | landlock.FS_REMOVE_DIR
    | landlock.FS_REMOVE_FILE
    | landlock.FS_MAKE_DIR
    | landlock.FS_MAKE_REG
    | landlock.FS_MAKE_FIFO
    | landlock.FS_MAKE_SYM
    | landlock.FS_REFER
)


class View(Record):
    """mounts: for the init, in order. rules: (path, Landlock rights) of what they make. own_terminals: its own /dev."""

    mounts: tuple[Mount, ...]
    rules: tuple[tuple[str, int], ...]
    own_terminals: bool


def private_view(expansion: Expansion, temporary_directory: str, workdir: str) -> View:
    """Return the view for a child with these pieces. temporary_directory: the run's own, which is granted."""
    around = {piece.path for piece in expansion.pieces if piece.kind == DIRECTORY or piece.path in ("/dev", "/tmp")}
    replaced = _near(expansion, ("/dev", "/tmp"))
    own_devices = not _covers(around, "/dev") and _fits_into("/dev/shm", replaced, temporary_directory, workdir)
    own_devices = own_devices and all(piece.path != "/dev/pts" for piece in replaced.pieces)
    own_tmp = expansion.has_tmp and not _covers(around, "/tmp")
    own_tmp = own_tmp and _fits_into("/tmp", replaced, temporary_directory, workdir)
    is_confined = "/" not in expansion.writable
    mounts: list[Mount] = []
    rules = [("/proc", _READ)]
    if own_devices:
        mounts += _devices(replaced)
        terminals = _READ | landlock.FS_WRITE_FILE | landlock.FS_IOCTL_DEV
        rules += [("/dev", landlock.FS_READ_DIR), ("/dev/pts", terminals), ("/dev/shm", _READ | DIRECTORY_WRITE)]
    if own_tmp:
        mounts += _tmp(replaced, temporary_directory, workdir)
    mounts.append(Mount(MOUNT_NEW, "/proc", "proc", _NOSUID | _NODEV | _NOEXEC))
    alone = (*(("/dev/shm", "/dev/pts") if own_devices else ()), *(("/tmp",) if own_tmp else ()))
    if is_confined:
        mounts.append(Mount(MOUNT_READ_ONLY, "/"))
        mounts += (Mount(MOUNT_WRITABLE, path) for path in alone)
        granted = _topmost(expansion.writable)
        mounts += [Mount(MOUNT_BIND_WRITABLE, path, path, 0, "", True) for path in granted if _can_be_written(path)]
    pinned = _by_all_names(expansion.pinned, temporary_directory if own_tmp else "")
    tops = (*expansion.writable, *alone)  # in its own /tmp, what leads to a grant is the agent's as well
    mounts += (Mount(MOUNT_BIND, path, path, optional=True) for path in _on_the_way(pinned, tops))
    if expansion.opened:
        mounts += _opened(expansion)
    mounts += (Mount(MOUNT_BIND_READ_ONLY, path, path, optional=True) for path in (*expansion.read_only, *pinned))
    if own_devices:  # last, as read-only as /dev is by now
        mounts += _covers_of(expansion.masked)
    else:  # there is nothing to cover it with; but nobody opens it to others by its mode
        mounts += (Mount(MOUNT_BIND_READ_ONLY, path, path, optional=True) for path, _ in expansion.masked)
    return View(tuple(mounts), tuple(rules), own_devices)


def has_own_tmp(mounts: Iterable[Mount]) -> bool:
    """Whether a view that was made by these steps has a /tmp of its own."""
    return any(mount.kind == MOUNT_BIND and mount.target == "/tmp" != mount.source for mount in mounts)


def _by_all_names(pinned: Iterable[str], temporary_directory: str) -> list[str]:
    """Return the pinned files also where the view shows them besides: see _tmp(). temporary_directory: what /tmp is."""
    paths = list(pinned)
    if temporary_directory and not _is_below(temporary_directory, "/tmp"):
        paths += [f"{temporary_directory}{path[len('/tmp') :]}" for path in paths if _is_below(path, "/tmp")]
    return paths


def _on_the_way(paths: Iterable[str], writable: Iterable[str]) -> list[str]:
    """Return the directories between what may be written, which are mount points, and paths in it; upper first."""
    tops = set(_topmost(writable))
    found: set[str] = set()
    for path in paths:
        above = list(ancestors(path))[1:]
        found.update(above[: next((at for at, directory in enumerate(above) if directory in tops), 0)])
    return sorted(found)


def _can_be_written(path: str) -> bool:
    """Whether the mount of a writable grant may be writable: not the devices', nor the kernel's settings."""
    return not path.startswith(("/dev/", "/proc/")) or is_at_or_below(path, "/dev/shm")


def _near(expansion: Expansion, directories: tuple[str, ...]) -> Expansion:
    """Return what is asked about: of hundreds of pieces and grants, those whose path begins like one of these."""
    return expansion._replace(
        pieces=tuple(piece for piece in expansion.pieces if piece.path.startswith(directories)),
        grants=tuple(grant for grant in expansion.grants if grant.path.startswith(directories)),
    )


def _fits_into(directory: str, expansion: Expansion, temporary_directory: str, workdir: str) -> bool:
    """Whether all that is to be seen at and below `directory` may be read and written in full.

    The agent has the whole of its own `directory`, and Landlock judges what is mounted in there by that rule, too, so
    nothing can have less. Where something has, or holds something denied, or the working directory is not granted, or a
    grant was named by way of a link in there, `directory` stays the machine's.
    """
    below = _pieces_at_or_below(directory, expansion)
    whole = {piece.path for piece in below if piece.kind in (DIRECTORY, FILE) and piece.access == READ | WRITE}
    seen = {*whole, temporary_directory}
    sockets = [each for each in expansion.unix_sockets if _is_below(each.path, directory)]
    named = (grant.path for grant in expansion.grants if grant.origin != STREAM and _is_below(grant.path, directory))
    return (
        all(_covers(seen, path) for path in named)
        and all(_covers(whole, piece.path) for piece in below)
        and not any(is_at_or_below(path, directory) for path in expansion.read_only)
        and (not _is_below(workdir, directory) or _covers(seen, workdir))
        and all((directory == "/tmp" and kind != ABSENT) or _covers(whole, path) for path, kind in sockets)
    )


def _pieces_at_or_below(directory: str, expansion: Expansion) -> list[Piece]:
    """Return the pieces there but for standard streams: /proc/self/fd leads to those past all mounts."""
    streams = {grant.path for grant in expansion.grants if grant.origin == STREAM}
    return [piece for piece in expansion.pieces if is_at_or_below(piece.path, directory) and piece.path not in streams]


def _devices(expansion: Expansion) -> Iterator[Mount]:
    """Make a /dev on the stage, and move it to its place."""
    yield Mount(MOUNT_NEW, _STAGE, "tmpfs", _NOSUID | _NOEXEC, "mode=755,size=1m")
    for name in _DEVICES:
        yield Mount(MOUNT_FILE, f"{_STAGE}/{name}", flags=0o600)
        yield Mount(MOUNT_BIND, f"{_STAGE}/{name}", f"/dev/{name}", optional=True)
    for name, target in _LINKS:
        yield Mount(MOUNT_LINK, f"{_STAGE}/{name}", target)
    yield Mount(MOUNT_FILE, f"{_STAGE}/{_COVER_FILE}", flags=0)
    yield Mount(MOUNT_DIRECTORY, f"{_STAGE}/{_COVER_DIRECTORY}", flags=0)
    yield Mount(MOUNT_DIRECTORY, f"{_STAGE}/pts", flags=0o755)
    yield Mount(MOUNT_NEW, f"{_STAGE}/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    yield Mount(MOUNT_DIRECTORY, f"{_STAGE}/shm", flags=0o755)
    yield Mount(MOUNT_NEW, f"{_STAGE}/shm", "tmpfs", _NOSUID | _NODEV, _SHARED_MEMORY)
    kinds = {piece.path: piece.kind for piece in _pieces_at_or_below("/dev", expansion)}
    for path in _topmost(kinds):
        name = path[len("/dev/") :]
        if name not in _DEVICES and not name.startswith("pts/"):
            yield from _shown(f"{_STAGE}/{name}", path, kinds[path] in (DIRECTORY, EXPANDED), _STAGE)
    yield Mount(MOUNT_MOVE, "/dev", _STAGE)


def _tmp(expansion: Expansion, temporary_directory: str, workdir: str) -> Iterator[Mount]:
    """Show in the temporary directory what is granted below /tmp, and the temporary directory as /tmp."""
    kinds = {piece.path: piece.kind for piece in _pieces_at_or_below("/tmp", expansion)}
    kinds |= {each.path: FILE for each in expansion.unix_sockets if _is_below(each.path, "/tmp")}
    for path in _topmost((*kinds, *((workdir,) if _is_below(workdir, "/tmp") else ()))):
        if path != temporary_directory:
            is_directory = kinds.get(path, DIRECTORY) in (DIRECTORY, EXPANDED)
            yield from _shown(f"{temporary_directory}{path[len('/tmp') :]}", path, is_directory, temporary_directory)
    if _is_below(temporary_directory, "/tmp"):  # its own name leads to it there, too
        name = temporary_directory[len("/tmp/") :]
        steps_up = name.count("/")
        yield from _directories(f"{temporary_directory}/{name}", temporary_directory)
        link = "/".join([".."] * steps_up) or "."
        yield Mount(MOUNT_LINK, f"{temporary_directory}/{name}", link, optional=True)
    yield Mount(MOUNT_BIND, "/tmp", temporary_directory, optional=True)


def _shown(target: str, source: str, is_directory: bool, root: str) -> Iterator[Mount]:
    """Show `source` at `target`, for which there is nothing yet below `root`."""
    yield from _directories(target, root)
    yield Mount(MOUNT_DIRECTORY if is_directory else MOUNT_FILE, target, flags=0o700, optional=True)
    yield Mount(MOUNT_BIND, target, source, optional=True)


def _directories(path: str, root: str) -> Iterator[Mount]:
    """Make the directories between `root` and `path`."""
    end = path.find("/", len(root) + 1)
    while end >= 0:
        yield Mount(MOUNT_DIRECTORY, path[:end], flags=0o755, optional=True)
        end = path.find("/", end + 1)


def _opened(expansion: Expansion) -> Iterator[Mount]:
    """Make what is denied read-only where holes in it keep it from being covered, but for the holes."""
    yield from (Mount(MOUNT_BIND_READ_ONLY, path, path, optional=True) for path in sorted(expansion.opened))
    opened = set(expansion.opened)
    granted = [
        piece.path
        for piece in expansion.pieces
        if piece.access & WRITE and piece.kind in (DIRECTORY, FILE) and _covers(opened, piece.path)
    ]
    yield from (Mount(MOUNT_BIND_WRITABLE, path, path, optional=True) for path in _topmost(granted))


def _covers_of(masked: Iterable[Entry]) -> Iterator[Mount]:
    for path, kind in masked:
        cover = _COVER_DIRECTORY if kind == DIRECTORY else _COVER_FILE
        yield Mount(MOUNT_BIND, path, f"/dev/{cover}", optional=True)


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _covers(directories: AbstractSet[str], path: str) -> bool:
    """Whether `path` is one of the directories, or below one; a look for each directory above it, however many."""
    return not directories.isdisjoint(ancestors(path))


def _topmost(paths: Iterable[str]) -> list[str]:
    """Return the paths that are not below another one, sorted."""
    kept = [""]
    for path in sorted({path.rstrip("/") + "/" for path in paths}):
        if len(kept) == 1 or not path.startswith(kept[-1]):
            kept.append(path)
    return [path[:-1] or "/" for path in kept[1:]]
