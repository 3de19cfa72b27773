"""The first half of a restore: all that will be needed is made ready in the staging directory, and synced.

Nothing of the user's is changed by then, and a full disk shows (restore.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENOSPC

from nono.kernel.sync import sync_file_system
from nono.rollback.reach import Meta, Reach, look, set_meta, set_meta_of
from nono.rollback.steps import Plan, Step, meta_of
from nono.rollback.tree import DIRECTORY, FILE, LINK, Entry

_BLOCK_BYTES = 4096
_SYNCED_ONE_BY_ONE = 64  # files; of more, one syncfs(2) is quicker
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_room(reach: Reach, plan: Plan, room_for: Callable[[Entry, int], int]) -> None:
    """Refuse what has no room, before it is begun. Raises OSError: ENOSPC."""
    has = os.statvfs(reach.fd)
    needed = 0
    for step in plan.puts:
        if step.becomes is not None and step.becomes.kind == FILE and step.link_to < 0:
            needed += -(-room_for(step.becomes, reach.device) // _BLOCK_BYTES)
    room = has.f_bavail * has.f_frsize // _BLOCK_BYTES
    if needed > room or (has.f_files and len(plan.puts) > has.f_favail):
        raise OSError(ENOSPC, f"{os.strerror(ENOSPC)} (it takes {needed * 4} kB, {room * 4} kB are free)", reach.path)


def stage(reach: Reach, plan: Plan, name: bytes, copy_to: Callable[[str, int], None]) -> None:
    """Make everything that is new, in the staging directory."""
    if not plan.step_count:
        return
    os.mkdir(name, 0o700, dir_fd=reach.directory(b""))
    staging = os.open(name, _DIRECTORY, dir_fd=reach.fd)
    try:
        few = len(plan.puts) <= _SYNCED_ONE_BY_ONE
        for step in plan.puts:
            _stage_one(staging, step, copy_to, _owner(reach, step), sync=few)
        if not few:
            sync_file_system(staging)
        os.fsync(staging)
    finally:
        os.close(staging)


def _stage_one(
    staging: int, step: Step, copy_to: Callable[[str, int], None], owner: tuple[int, int], *, sync: bool
) -> None:
    becomes, name = step.becomes, new_name(step.number)
    assert becomes is not None
    if step.link_to >= 0:
        os.link(new_name(step.link_to), name, src_dir_fd=staging, dst_dir_fd=staging, follow_symlinks=False)
        return
    if becomes.kind == DIRECTORY:
        os.mkdir(name, 0o700, dir_fd=staging)
    elif becomes.kind == LINK:
        os.symlink(becomes.target, name, dir_fd=staging)
    meta = meta_of(becomes)._replace(uid=owner[0], gid=owner[1])
    if becomes.kind != FILE:
        set_meta(staging, name, meta if becomes.kind == LINK else Meta(0o700, becomes.mtime_ns, None, *owner))
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=staging)
    try:
        copy_to(becomes.digest, fd)
        set_meta_of(fd, os.fstat(fd), meta)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _owner(reach: Reach, step: Step) -> tuple[int, int]:
    """Return whose the new file is to be: as it was; where that is not known, root gives it to whom the old one, or
    the root, belongs to."""
    assert step.becomes is not None
    if step.becomes.uid >= 0 or os.geteuid() != 0:
        return step.becomes.uid, step.becomes.gid
    found = os.fstat(reach.fd)
    if step.was is not None:
        directory_fd, name = reach.holder(step.path)
        found = look(directory_fd, name) or found
    return found.st_uid, found.st_gid


def new_name(number: int) -> bytes:
    """Of what is to come, in the staging directory."""
    return b"new-%d" % number


def old_name(number: int) -> bytes:
    """Of what gave way, in the same."""
    return b"old-%d" % number
