"""What the steps of the child's own view come to, in a model of mounts: what is shown where, what can be written."""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from nono.policy.capabilities import NETWORK_BLOCKED, READ, WRITE, PathGrant
from nono.sandbox.expansion import DEVICE, DIRECTORY, EXPANDED, FILE, STREAM, Entry, Expansion, Piece, ancestors
from nono.sandbox.mounts import has_own_tmp, private_view

SCRATCH = "/tmp/nono-1"
OWN = Piece(SCRATCH, DIRECTORY, READ | WRITE)
# Directories that may be granted, with what may be in them.
PLACES = ("/home/u/a", "/home/u/b", "/srv", "/opt/x/y", "/tmp/shared", "/dev/shm/segment")
BELOW = ("", "/one", "/one/two", "/three")
PATHS = tuple(place + below for place in PLACES for below in BELOW)


class Mounted(NamedTuple):
    """shown: what is at the root of it, a real path or "TYPE:" for a new file system."""

    shown: str
    read_only: bool


def covers(directory: str, path: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


class Model:
    """Mounts as the kernel would have them after the steps; every path that is named is taken to be there."""

    def __init__(self, steps: tuple[Mount, ...]) -> None:
        self.at = {"/": Mounted("/", False)}
        self.made: list[tuple[str, str]] = []  # (path, on what)
        self.links: dict[str, str] = {}  # what is shown → where it leads
        for step in steps:
            self.carry_out(step)

    def look(self, path: str) -> Mounted:
        """What is seen at a path, and whether that can be written."""
        point = max((point for point in self.at if covers(point, path)), key=len)
        shown, read_only = self.at[point]
        shown = shown.rstrip("/") + path[len(point.rstrip("/")) :] or "/"
        for link, destination in self.links.items():
            if covers(link, shown):
                inside = shown[len(link) :]
                directory = path[: len(path) - len(inside)].rpartition("/")[0]
                return self.look(os.path.normpath(f"{directory}/{destination}{inside}"))
        return Mounted(shown, read_only)

    def below(self, path: str) -> list[str]:
        return [point for point in self.at if covers(path, point)]

    def carry_out(self, step: Mount) -> None:
        kind, target = step.kind, step.target
        if kind == MOUNT_NEW:
            self.cover(target, {"": Mounted(f"{step.source}:", False)})
        elif kind in (MOUNT_BIND, MOUNT_BIND_READ_ONLY, MOUNT_BIND_WRITABLE, MOUNT_MOVE):
            if step.optional and step.source == target and self.is_link(target):
                return  # ELOOP
            tree = {point[len(step.source) :]: self.at[point] for point in self.below(step.source)}
            if kind == MOUNT_MOVE:
                for point in self.below(step.source):
                    del self.at[point]
            else:
                tree[""] = self.look(step.source)
            if kind in (MOUNT_BIND_READ_ONLY, MOUNT_BIND_WRITABLE):
                read_only = kind == MOUNT_BIND_READ_ONLY
                tree = {below: mounted._replace(read_only=read_only) for below, mounted in tree.items()}
            self.cover(target, tree)
        elif kind in (MOUNT_READ_ONLY, MOUNT_WRITABLE):
            assert target in self.at, f"{target} is no mount"
            for point in [target] if kind == MOUNT_WRITABLE else self.below(target):
                self.at[point] = self.at[point]._replace(read_only=kind == MOUNT_READ_ONLY)
        else:
            assert kind in (MOUNT_DIRECTORY, MOUNT_FILE, MOUNT_LINK)
            self.made.append((target, self.look(target).shown))
            if kind == MOUNT_LINK and covers(SCRATCH, target):
                self.links[target] = step.source

    def is_link(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return f"{self.look(directory or '/').shown.rstrip('/')}/{name}" in self.links

    def cover(self, target: str, tree: dict[str, Mounted]) -> None:
        for point in self.below(target):
            del self.at[point]
        self.at.update({target + below: mounted for below, mounted in tree.items()})


def expansion(
    writable: tuple[str, ...] = (),
    *,
    readable: tuple[str, ...] = (),
    masked: tuple[str, ...] = (),
    read_only: tuple[str, ...] = (),
    pinned: tuple[str, ...] = (),
    grants: tuple[PathGrant, ...] = (),
    pieces: tuple[Piece, ...] = (),
) -> Expansion:
    """As `expand` would make it: what holds something masked is expanded, not granted in full."""
    made = [OWN]
    for paths, access in ((readable, READ), (writable, READ | WRITE)):
        for path in paths:
            kind = EXPANDED if any(covers(path, hidden) for hidden in masked) else DIRECTORY
            made.append(Piece(path, kind, access))
    return Expansion(
        (*made, *pieces), grants, (), NETWORK_BLOCKED,
        writable=(SCRATCH, *writable), masked=tuple(Entry(path, DIRECTORY) for path in masked),
        read_only=read_only, pinned=pinned, has_tmp=True,
    )  # fmt: skip


def seen(made: Expansion, workdir: str = "/home/u") -> Model:
    return Model(private_view(made, SCRATCH, workdir).mounts)


subsets = st.lists(st.sampled_from(PATHS), unique=True, max_size=4).map(tuple)


@given(writable=subsets, readable=subsets, masked=subsets, read_only=subsets, pinned=subsets)
def test_what_comes_out_is_what_was_granted(
    writable: tuple[str, ...],
    readable: tuple[str, ...],
    masked: tuple[str, ...],
    read_only: tuple[str, ...],
    pinned: tuple[str, ...],
) -> None:
    masked = tuple(path for path in masked if any(path != by and covers(by, path) for by in (*writable, *readable)))
    read_only = tuple(path for path in read_only if any(path != by and covers(by, path) for by in writable))
    pinned = tuple(path for path in pinned if any(path != by and covers(by, path) for by in writable))
    made = expansion(writable, readable=readable, masked=masked, read_only=read_only, pinned=pinned)
    model = seen(made)
    own_tmp, own_devices = model.look("/tmp").shown == SCRATCH, model.look("/dev").shown == "tmpfs:"
    for path in (*PATHS, "/", "/etc/passwd", "/home/u", "/opt/x", SCRATCH):
        shown, is_read_only = model.look(path)
        hidden = [by for by in masked if covers(by, path)]
        may_write = any(covers(by, path) for by in (*writable, SCRATCH)) and not any(
            covers(by, path) for by in (*read_only, *pinned, *masked)
        )
        granted = any(covers(by, path) for by in (*writable, *readable, SCRATCH))
        if hidden and own_devices:
            assert shown.startswith("tmpfs:/.covered-directory")
            assert is_read_only  # nobody changes its mode
        elif granted or not ((own_tmp and covers("/tmp", path)) or (own_devices and covers("/dev", path))):
            assert shown == path
            assert is_read_only != may_write, path
    for above in {above for path in pinned for above in ancestors(path) if above != "/"}:
        if not model.look(os.path.dirname(above)).read_only:  # nor can what is around them take another name
            assert above in model.at or any(covers(by, above) for by in masked)
    for path, on in model.made:  # nothing is made on the user's disk
        assert on.startswith("tmpfs:") or covers(SCRATCH, path)


def test_the_machines_own_places_are_replaced() -> None:
    model = seen(expansion())
    assert model.look("/proc").shown == "proc:"
    assert model.look("/tmp") == (SCRATCH, False)
    assert model.look("/dev") == ("tmpfs:", True)
    assert model.look("/dev/shm") == ("tmpfs:", False)
    assert model.look("/dev/pts") == ("devpts:", False)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert model.look(f"/dev/{name}").shown == f"/dev/{name}"
    assert model.look("/dev/sda").shown == "tmpfs:/sda"
    assert model.look("/dev/shm/somebodys").shown == "tmpfs:/somebodys"
    assert model.look("/home/u") == ("/home/u", True)


def test_everything_granted_for_writing_makes_nothing_read_only() -> None:
    made = Expansion(
        (OWN, Piece("/", DIRECTORY, READ | WRITE)), (), (), NETWORK_BLOCKED, writable=("/", SCRATCH), has_tmp=True
    )
    model = seen(made)
    assert model.at == {"/": Mounted("/", False), "/proc": Mounted("proc:", False)}


def test_a_writable_grant_below_another_needs_no_mount_of_its_own() -> None:
    """Each mount costs; and the upper one reaches it."""
    view = private_view(expansion(("/srv", "/srv/one", "/srv/one/two")), SCRATCH, "/srv")
    assert [mount.target for mount in view.mounts if covers("/srv", mount.target)] == ["/srv"]


@pytest.mark.parametrize("hidden", ["/home/u/.ssh", "/home/u/project/.env"])
def test_a_mask_lies_on_what_is_writable_and_is_empty(hidden: str) -> None:
    model = seen(expansion(("/home/u",), masked=(hidden,)))
    assert model.look(hidden).shown == "tmpfs:/.covered-directory"
    assert model.look("/home/u/other") == ("/home/u/other", False)
    assert ("/proc/.covered-directory", "tmpfs:/.covered-directory") in model.made


def test_a_masked_file_is_covered_by_a_file() -> None:
    made = expansion(("/home/u",))._replace(masked=(Entry("/home/u/.netrc", FILE),))
    assert seen(made).look("/home/u/.netrc").shown == "tmpfs:/.covered-file"


def test_without_devices_of_its_own_what_would_be_covered_is_read_only() -> None:
    """What covers lies in the child's own /dev. Landlock keeps it closed, but not from chmod(2)."""
    made = expansion(("/home/u",), masked=("/home/u/.ssh",), pieces=(Piece("/dev", DIRECTORY, READ),))
    assert seen(made).look("/home/u/.ssh") == ("/home/u/.ssh", True)
    assert seen(made).look("/home/u/.config") == ("/home/u/.config", False)


def test_a_hole_that_must_not_be_written_is_read_only_whatever_is_around_it() -> None:
    model = seen(expansion(("/srv", "/srv/one/two"), read_only=("/srv/one",)))
    assert [model.look(path).read_only for path in ("/srv", "/srv/one", "/srv/one/two", "/srv/three")] == [
        False, True, True, False
    ]  # fmt: skip


def test_a_pinned_file_is_read_only_by_every_name_that_it_has() -> None:
    """Also where a temporary directory elsewhere is /tmp as well; and what is granted there stays in a /tmp of ours."""
    pinned = ("/tmp/shared/one/two", "/home/u/a/one/two")
    made = expansion(("/tmp/shared", "/home/u/a"), pinned=pinned, pieces=(Piece("/srv/t", DIRECTORY, READ | WRITE),))
    for scratch in (SCRATCH, "/srv/t"):
        model = Model(private_view(made._replace(writable=(*made.writable, scratch)), scratch, "/home/u").mounts)
        assert model.look("/tmp").shown == scratch
        for path in (*pinned, f"{scratch}/shared/one/two"):
            assert model.look(path).read_only
            assert model.look(path).shown in pinned
        for path in ("/tmp/shared/one/new", "/home/u/a/one/new", f"{scratch}/shared/one/new", "/home/u/a/new"):
            assert not model.look(path).read_only
        assert {"/tmp/shared/one", "/home/u/a/one"} <= model.at.keys()


@pytest.mark.parametrize("granted", ["/tmp/my/work/app", "/dev/shm/my/work/app"])
@pytest.mark.parametrize("scratch", [SCRATCH, "/srv/t"])
def test_what_leads_to_a_pinned_file_in_the_agents_own_tmp_is_a_mount_point(granted: str, scratch: str) -> None:
    """It is made for the grant, in a directory that the agent may do anything in."""
    made = expansion((granted,), pinned=(f"{granted}/docs/one",), pieces=(Piece("/srv/t", DIRECTORY, READ | WRITE),))
    model = Model(private_view(made._replace(writable=(granted, scratch)), scratch, "/home/u").mounts)
    directories = [granted.removesuffix(end) for end in ("/work/app", "/app", "")]
    assert {*directories, f"{granted}/docs", f"{granted}/docs/one"} <= model.at.keys()
    assert [model.look(path).read_only for path in (*directories, f"{granted}/docs/one")] == [False] * 3 + [True]


def test_under_a_grant_of_everything_all_above_a_pinned_file_is_a_mount_point() -> None:
    made = Expansion(
        (OWN, Piece("/", DIRECTORY, READ | WRITE)), (), (), NETWORK_BLOCKED, writable=("/", SCRATCH),
        pinned=("/tmp/shared/one",), has_tmp=True,
    )  # fmt: skip
    view = private_view(made, SCRATCH, "/home/u")
    assert not has_own_tmp(view.mounts)
    assert {"/tmp", "/tmp/shared", "/tmp/shared/one"} <= seen(made).at.keys()
    assert [path for path in ("/tmp/shared", "/tmp/shared/one", "/tmp") if seen(made).look(path).read_only] == [
        "/tmp/shared/one"
    ]


@pytest.mark.parametrize("access", [READ, WRITE])
def test_where_shared_memory_or_tmp_is_granted_in_part_the_machines_stays(access: int) -> None:
    for piece in (Piece("/dev/shm/a", DIRECTORY, access), Piece("/dev/shm/a", FILE, access)):
        model = seen(expansion(pieces=(piece,)))
        assert (model.look("/dev").shown, model.look("/tmp").shown) == ("/dev", SCRATCH)
    for piece in (Piece("/tmp/a", DIRECTORY, access), Piece("/tmp/a", FILE, access)):
        model = seen(expansion(pieces=(piece,)))
        assert (model.look("/dev").shown, model.look("/tmp").shown) == ("tmpfs:", "/tmp")
        assert model.look("/tmp/other").read_only
        assert not model.look(SCRATCH).read_only


def test_granted_devices_are_shown_beside_the_few() -> None:
    pieces = (Piece("/dev/dri", DIRECTORY, READ | WRITE), Piece("/dev/snd/seq", DEVICE, READ), OWN)
    model = seen(expansion(pieces=pieces))
    assert model.look("/dev/dri/card0").shown == "/dev/dri/card0"
    assert model.look("/dev/snd/seq").shown == "/dev/snd/seq"
    assert model.look("/dev/snd/other").shown == "tmpfs:/snd/other"


def test_standard_streams_do_not_count() -> None:
    """They are inherited, and /proc/self/fd leads to them past all mounts: they neither keep a place nor show in it."""
    for path, kind in (("/dev/shm/in", FILE), ("/tmp/out", FILE), ("/dev/pts/3", DEVICE)):
        stream = PathGrant(path, READ, True, STREAM)
        model = seen(expansion(grants=(stream,), pieces=(Piece(path, kind, READ),)))
        assert (model.look("/dev").shown, model.look("/tmp").shown) == ("tmpfs:", SCRATCH)
        assert model.look(path).shown != path
    also = PathGrant("/dev/shm/in", READ, False, "--read-file")
    assert seen(expansion(grants=(also,), pieces=(Piece("/dev/shm/in", FILE, READ),))).look("/dev").shown == "/dev"


@pytest.mark.parametrize(("own_tmp", "own_devices"), [*itertools.product([True, False], repeat=2)])
def test_every_step_but_those_is_optional(own_tmp: bool, own_devices: bool) -> None:
    """A path of the user's that vanishes before the run starts is left out; what is ours must not fail unseen."""
    pieces = (
        *(() if own_tmp else (Piece("/tmp/a", FILE, READ),)),
        *(() if own_devices else (Piece("/dev/shm/a", FILE, READ),)),
    )
    made = expansion(("/srv", "/home/u"), masked=("/home/u/.ssh",), read_only=("/srv/one",), pieces=pieces)
    users = ("/srv", "/home/u", "/srv/one", "/home/u/.ssh", SCRATCH)
    for mount in private_view(made, SCRATCH, "/srv").mounts:
        if mount.target in users:
            assert mount.optional, mount
        if mount.kind in (MOUNT_NEW, MOUNT_MOVE) or mount == Mount(MOUNT_READ_ONLY, "/"):
            assert not mount.optional, mount
