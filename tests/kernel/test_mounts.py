"""Mounts are made where they were planned, also where somebody puts something else in their place meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nono.kernel.spawn import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MOUNT_BIND,
    MOUNT_BIND_READ_ONLY,
    MOUNT_BIND_WRITABLE,
    MOUNT_READ_ONLY,
    MOUNT_WRITABLE,
    Mount,
    prepare,
)
from nono.kernel.spawn_errors import SpawnError

NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS


def mounted(*mounts: Mount) -> dict[str, str]:
    """Where something is mounted after these mounts: its options."""
    with prepare(namespaces=NAMESPACES, mounts=mounts) as prepared:
        lines = os.fsdecode(Path(f"/proc/{prepared.pid}/mountinfo").read_bytes()).splitlines()
    return {line.split()[4]: line.split()[5] for line in lines}


def bound_and_writable(path: Path) -> tuple[Mount, ...]:
    """As mounts.py has it for what is granted for writing."""
    return (Mount(MOUNT_READ_ONLY, "/"), Mount(MOUNT_BIND_WRITABLE, str(path), str(path), optional=True))


def test_what_is_planned_is_writable_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    found = mounted(*bound_and_writable(tmp_path / "granted"))
    assert "rw" in found[str(tmp_path / "granted")].split(",")
    assert "ro" in found["/"].split(",")


@pytest.mark.parametrize("inside", ["", "inside"])
def test_a_link_in_its_place_is_not_followed(tmp_path: Path, inside: str) -> None:
    """Another agent may write in the directory above, and exchanges the granted one for a link to what it wants."""
    (tmp_path / "secret" / "inside").mkdir(parents=True)
    (tmp_path / "granted").symlink_to("secret")
    found = mounted(*bound_and_writable(tmp_path / "granted" / inside))
    assert not [path for path in found if path.startswith(str(tmp_path))]
    assert "ro" in found["/"].split(",")


@pytest.mark.parametrize("kind", [MOUNT_BIND_READ_ONLY, MOUNT_BIND_WRITABLE])
def test_only_the_copy_is_changed(tmp_path: Path, kind: int) -> None:
    """What is bound keeps what it has where it came from; a copy that finds no place is gone."""
    (tmp_path / "granted").mkdir()
    source, target = str(tmp_path / "granted"), str(tmp_path / "missing")
    before = (Mount(MOUNT_READ_ONLY, "/"),) if kind == MOUNT_BIND_WRITABLE else ()
    found = mounted(*before, Mount(kind, target, source, optional=True))
    assert not [path for path in found if path.startswith(str(tmp_path))]
    assert ("ro" in found["/"].split(",")) == bool(before)


def test_what_is_not_optional_fails(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for kind, target, expected in (
        (MOUNT_BIND, "link", errno.ELOOP),
        (MOUNT_READ_ONLY, "link", errno.ELOOP),
        (MOUNT_BIND, "file", errno.ENOTDIR),
        (MOUNT_WRITABLE, "file", errno.ENOENT),
    ):
        with pytest.raises(SpawnError) as caught:
            mounted(Mount(kind, str(tmp_path / target), str(tmp_path)))
        assert (caught.value.step, caught.value.errno) == ("mount", expected)


def test_a_file_in_the_place_of_a_directory_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = mounted(Mount(MOUNT_BIND, str(tmp_path / "file"), str(tmp_path), optional=True))
    assert not [path for path in found if path.startswith(str(tmp_path))]


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    names = ["plain", "with blank", "é", os.fsdecode(b"odd-\xff\xfe"), "plain-too"]
    for name in names:
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name) for name in names]
    found = mounted(*(Mount(MOUNT_BIND, path, path) for path in paths))
    assert {path.replace(" ", "\\040") for path in paths} <= set(found)
    with pytest.raises(ValueError, match="NUL"):
        mounted(Mount(MOUNT_BIND, "/a\0b", "/a"))
