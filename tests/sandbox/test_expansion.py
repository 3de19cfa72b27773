"""Grants minus denies, on made-up trees: what Landlock would allow is what was granted and not denied."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import NETWORK_PROXY, READ, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.policy.protection import SIGNED
from nono.sandbox import expansion
from nono.sandbox.expansion import ABSENT, DEVICE, DIRECTORY, EXPANDED, FILE, LINK, Entry, Expansion, expand


class Made:
    """A Listing over a dictionary: path -> kind, or "-> target" for a link."""

    def __init__(self, paths: dict[str, str], aliases: dict[str, str] | None = None) -> None:
        self.paths = {"/": DIRECTORY}
        for path, kind in paths.items():
            for above in expansion.ancestors(posixpath.dirname(path)):
                self.paths.setdefault(above, DIRECTORY)
            self.paths[path] = kind
        self.mounted = aliases or {}

    def look(self, path: str) -> Entry:
        real, todo = "", [part for part in path.split("/") if part]
        for _ in range(50):
            if not todo:
                return Entry(real or "/", self.paths.get(real or "/", ABSENT))
            here = f"{real}/{todo.pop(0)}"
            kind = self.paths.get(here, ABSENT)
            if kind.startswith("->"):
                target = posixpath.normpath(posixpath.join(real or "/", kind[2:].strip()))
                real, todo = "", [part for part in target.split("/") if part] + todo
            else:
                real = here
        return Entry(path, ABSENT)

    def children(self, path: str) -> Iterable[tuple[str, str]]:
        prefix = path.rstrip("/") + "/"
        for other, kind in sorted(self.paths.items()):
            if other != "/" and other.startswith(prefix) and "/" not in other[len(prefix) :]:
                yield other[len(prefix) :], LINK if kind.startswith("->") else kind

    def aliases(self, path: str) -> Iterable[str]:
        for mounted, source in self.mounted.items():
            if path == source or path.startswith(source + "/"):
                yield mounted + path[len(source) :]

    def is_socket(self, path: str) -> bool:
        return self.paths.get(path) == FILE and "sock" in path


def allow(path: str, access: int = READ | WRITE, *, is_file: bool = False, optional: bool = False) -> PathGrant:
    return PathGrant(path, access, is_file, "--allow-file" if is_file else "--allow", optional)


def expanded(listing: Made, grants: Iterable[PathGrant], denies: Iterable[str]) -> Expansion:
    denied = tuple(PathDeny(path, "deny_test") for path in denies)
    return expand(CapabilitySet(tuple(grants), denied, NETWORK_PROXY, (), "/"), listing)


def reach(result: Expansion, path: str) -> int:
    """What Landlock allows on the content of the real path `path`: all rules from it up to the root, together."""
    access = 0
    for piece in result.pieces:
        if piece.kind != EXPANDED and (
            piece.path == path or (piece.kind == DIRECTORY and path.startswith(piece.path.rstrip("/") + "/"))
        ):
            access |= piece.access
    return access


HOME = {
    "/home/u/.ssh/id": FILE,
    "/home/u/.netrc": FILE,
    "/home/u/.config/gh/hosts": FILE,
    "/home/u/.config/app/settings": FILE,
    "/home/u/src/app/main.py": FILE,
    "/home/u/notes": FILE,
    "/home/u/key": "-> .ssh/id",
    "/etc/passwd": FILE,
    "/dev/null": DEVICE,
    "/dev/sda": DEVICE,
}
SECRETS = ("/home/u/.ssh", "/home/u/.netrc", "/home/u/.config/gh", "/home/u/.aws")


def test_grants_what_stands_beside_a_denied_path() -> None:
    result = expanded(Made(HOME), [allow("/home/u")], SECRETS)
    assert {(piece.path, piece.kind) for piece in result.pieces} == {
        ("/home/u", EXPANDED),
        ("/home/u/.config", EXPANDED),
        ("/home/u/.config/app", DIRECTORY),
        ("/home/u/notes", FILE),
        ("/home/u/src", DIRECTORY),
    }


def test_leaves_a_grant_alone_that_holds_nothing_denied() -> None:
    result = expanded(Made(HOME), [allow("/home/u/src")], SECRETS)
    assert [(piece.path, piece.kind, piece.access) for piece in result.pieces] == [
        ("/home/u/src", DIRECTORY, READ | WRITE)
    ]


def test_expands_also_around_a_denied_path_that_does_not_exist_yet() -> None:
    listing = Made({"/home/u/src/x": FILE})
    assert {piece.kind for piece in expanded(listing, [allow("/home/u")], ["/home/u/.aws"]).pieces} == {
        EXPANDED,
        DIRECTORY,
    }


def pinned(listing: Made, *grants: PathGrant, mounts: bool) -> Expansion:
    denies = (
        PathDeny("/home/u/.ssh", "deny_test"),
        *(PathDeny(f"/home/u/src/app/{name}", SIGNED, WRITE, pinned=True) for name in ("CLAUDE.md", "sub/SKILL.md")),
    )
    return expand(CapabilitySet(grants, denies, NETWORK_PROXY, (), "/"), listing, mounts=mounts)


def test_beside_a_pinned_file_others_can_be_made_where_there_are_mounts() -> None:
    listing = Made({**HOME, "/home/u/src/app/CLAUDE.md": FILE, "/home/u/src/app/sub/SKILL.md": FILE})
    app, home = "/home/u/src/app", "/home/u/src"
    for grant in (allow(app), allow("/home/u")):
        result = pinned(listing, grant, mounts=True)
        assert reach(result, f"{app}/new") == reach(result, f"{app}/sub/new") == READ | WRITE
        assert set(result.pinned) == {f"{app}/CLAUDE.md", f"{app}/sub/SKILL.md"}
        assert result.read_only == ()
        strict = pinned(listing, grant, mounts=False)
        for name in ("new", "sub/new", "CLAUDE.md", "sub/SKILL.md"):
            assert reach(strict, f"{app}/{name}") == READ
        assert reach(strict, f"{app}/main.py") == READ | WRITE
        assert set(strict.read_only) == {f"{app}/CLAUDE.md", f"{app}/sub/SKILL.md"}
        assert strict.pinned == ()
    for grant in (allow(home, READ), allow("/etc/passwd", is_file=True)):
        assert pinned(listing, grant, mounts=True).pinned == ()


def test_a_pinned_file_is_pinned_by_its_other_names() -> None:
    listing = Made({"/home/u/src/app/CLAUDE.md": FILE, "/mnt/app": DIRECTORY}, {"/mnt/app": "/home/u/src/app"})
    listing.paths["/mnt/app/CLAUDE.md"] = FILE
    both = pinned(listing, allow("/home/u/src"), allow("/mnt"), mounts=True)
    assert set(both.pinned) == {"/home/u/src/app/CLAUDE.md", "/mnt/app/CLAUDE.md"}
    assert pinned(listing, allow("/mnt"), mounts=True).pinned == ("/mnt/app/CLAUDE.md",)


def test_a_pinned_file_is_not_granted_for_writing_by_name() -> None:
    listing = Made({"/home/u/src/app/CLAUDE.md": FILE})
    for mounts in (True, False):
        with pytest.raises(PolicyError, match=r"cannot be made writable \(signed, read-only"):
            pinned(listing, allow("/home/u/src/app/CLAUDE.md", is_file=True), mounts=mounts)


def test_what_cannot_be_read_either_is_never_left_to_the_mounts() -> None:
    listing = Made({"/home/u/src/key": FILE})
    denies = (PathDeny("/home/u/src/key", "deny_test", pinned=True),)
    result = expand(CapabilitySet((allow("/home/u"),), denies, NETWORK_PROXY, (), "/"), listing, mounts=True)
    assert reach(result, "/home/u/src/key") == 0


def test_write_access_alone_does_not_list_an_expanded_directory() -> None:
    result = expanded(Made(HOME), [allow("/home/u", WRITE)], SECRETS)
    assert EXPANDED not in {piece.kind for piece in result.pieces}


@pytest.mark.parametrize("path", ["/home/u/.ssh", "/home/u/.ssh/id", "/home/u/key", "/home/u/.aws"])
def test_refuses_a_grant_of_what_is_denied(path: str) -> None:
    listing = Made({**HOME, "/home/u/.aws/x": FILE})
    grant = PathGrant(path, READ, path not in ("/home/u/.ssh", "/home/u/.aws"), "--read")
    with pytest.raises(PolicyError, match=r"--read /home/u/\S+: it is protected \(deny_test, /home/u/.*leave it out"):
        expanded(listing, [grant], SECRETS)


def test_refuses_a_grant_through_a_link_into_a_denied_place() -> None:
    listing = Made({**HOME, "/home/u/src/link": "-> /home/u/.config/gh"})
    with pytest.raises(PolicyError, match=r"deny_test, /home/u/\.config/gh"):
        expanded(listing, [allow("/home/u/src/link")], SECRETS)


def test_leaves_out_a_built_in_grant_of_what_is_denied_and_says_so() -> None:
    result = expanded(Made(HOME), [allow("/home/u/.ssh", optional=True)], SECRETS)
    assert result.pieces == ()
    assert "was left out" in result.notes[0]


def test_a_denied_link_denies_its_target() -> None:
    listing = Made({**HOME, "/home/u/dot/ssh/id": FILE, "/home/u/dot/x": FILE, "/home/u/.ssh": "-> dot/ssh"})
    result = expanded(listing, [allow("/home/u")], SECRETS)
    assert reach(result, "/home/u/dot/ssh/id") == 0
    assert reach(result, "/home/u/dot/x") == READ | WRITE


def test_a_link_in_a_denied_directory_denies_the_file_it_leads_to() -> None:
    listing = Made({**HOME, "/home/u/dot/id": FILE, "/home/u/dot/x": FILE, "/home/u/.ssh/id2": "-> ../dot/id"})
    result = expanded(listing, [allow("/home/u")], SECRETS)
    assert (reach(result, "/home/u/dot/id"), reach(result, "/home/u/dot/x")) == (0, READ | WRITE)
    with pytest.raises(PolicyError):
        expanded(listing, [allow("/home/u/dot/id", is_file=True)], SECRETS)


def test_such_a_link_does_not_take_the_system_apart() -> None:
    listing = Made({**HOME, "/usr/lib/x": FILE, "/home/u/.ssh/known": "-> /usr/lib/x"})
    result = expanded(listing, [allow("/usr", READ, optional=True)], SECRETS)
    assert [(piece.path, piece.kind) for piece in result.pieces] == [("/usr", DIRECTORY)]


def test_upper_and_lower_case_are_one() -> None:
    listing = Made({"/home/U/.SSH/id": FILE, "/home/U/.Config/GH/hosts": FILE, "/home/U/x": FILE})
    result = expanded(listing, [allow("/home/U")], SECRETS)
    assert [reach(result, path) for path in ("/home/U/.SSH/id", "/home/U/.Config/GH/hosts")] == [0, 0]
    assert reach(result, "/home/U/x") == READ | WRITE
    with pytest.raises(PolicyError):
        expanded(listing, [allow("/home/U/.SSH")], SECRETS)


def test_a_second_mount_of_a_denied_path_is_denied_too() -> None:
    listing = Made({**HOME, "/mnt/home/.ssh/id": FILE, "/mnt/home/x": FILE}, {"/mnt/home": "/home/u"})
    result = expanded(listing, [allow("/mnt")], SECRETS)
    assert (reach(result, "/mnt/home/.ssh/id"), reach(result, "/mnt/home/x")) == (0, READ | WRITE)
    with pytest.raises(PolicyError):
        expanded(listing, [allow("/mnt/home/.ssh")], SECRETS)


def test_the_root_does_not_mean_devices_and_kernel_settings() -> None:
    listing = Made({**HOME, "/proc/sys/x": FILE, "/sys/x": FILE})
    result = expanded(listing, [allow("/"), allow("/dev/null", is_file=True)], SECRETS)
    assert {path: reach(result, path) for path in ("/dev/sda", "/proc/sys/x", "/sys/x")} == {
        "/dev/sda": 0,
        "/proc/sys/x": 0,
        "/sys/x": 0,
    }
    assert reach(result, "/dev/null") == reach(result, "/etc/passwd") == READ | WRITE
    assert reach(expanded(listing, [allow("/dev")], SECRETS), "/dev/sda") == READ | WRITE


@pytest.mark.parametrize(
    ("grant", "sentence"),
    [
        (allow("/home/u/no"), "--allow /home/u/no: no such file or directory"),
        (allow("/home/u/notes"), "--allow /home/u/notes: is not a directory; grant it with --allow-file"),
        (allow("/home/u/src", is_file=True), "--allow-file /home/u/src: is a directory; grant it with --allow"),
        (allow("/home/u/notes/x"), "no such file or directory"),
    ],
)
def test_says_what_is_wrong_with_a_grant(grant: PathGrant, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        expanded(Made(HOME), [grant], SECRETS)
    assert expanded(Made(HOME), [grant._replace(optional=True)], ()).pieces in ((), expanded_file(grant))


def expanded_file(grant: PathGrant) -> tuple[expansion.Piece, ...]:
    return (expansion.Piece(grant.path, FILE, grant.access),)


def test_an_optional_grant_may_be_a_file() -> None:
    assert reach(expanded(Made(HOME), [allow("/etc/passwd", READ, optional=True)], ()), "/etc/passwd") == READ


def test_refuses_to_take_an_enormous_directory_apart() -> None:
    listing = Made({f"/big/{n}": FILE for n in range(expansion.MAX_PIECES + 1)})
    with pytest.raises(PolicyError, match="--allow /big: too broad"):
        expanded(listing, [allow("/big")], ["/big/secret"])
    assert len(expanded(listing, [allow("/big")], ["/other"]).pieces) == 1


def test_says_what_a_user_may_stumble_over() -> None:
    result = expanded(Made(HOME), [allow("/home/u")], SECRETS)
    assert any(note.startswith("/home/u: new files cannot be created directly in it") for note in result.notes)
    assert expanded(Made(HOME), [allow("/home/u", READ)], SECRETS).notes == (), "nobody creates files there"


def test_leaves_out_what_a_wider_grant_covers() -> None:
    grants = [allow("/home/u/src/app", READ), allow("/home/u/src"), allow("/home/u/src/app/main.py", is_file=True)]
    assert [piece.path for piece in expanded(Made(HOME), grants, ()).pieces] == ["/home/u/src"]


AWS = {**HOME, "/home/u/.aws/config": FILE, "/home/u/.aws/credentials": FILE, "/home/u/.aws/sso/a": FILE}


def with_holes(
    listing: Made, grants: Iterable[PathGrant], *holes: str, others: tuple[PathDeny, ...] = (), sockets: str = ""
) -> Expansion:
    denies = (PathDeny("/home/u/.ssh", "deny_test"), PathDeny("/home/u/.aws", "deny_test", holes=holes), *others)
    capabilities = CapabilitySet(tuple(grants), denies, NETWORK_PROXY, (), "/")
    return expand(capabilities._replace(unix_sockets=(sockets,) if sockets else ()), listing)


def test_a_hole_in_a_denied_path_can_be_granted_and_nothing_beside_it() -> None:
    holes = ("/home/u/.aws/config", "/home/u/.aws/sso")
    result = with_holes(Made(AWS), [allow(holes[0], READ, is_file=True), allow(holes[1])], *holes)
    assert reach(result, "/home/u/.aws/config") == READ
    assert reach(result, "/home/u/.aws/sso/a") == READ | WRITE
    assert reach(result, "/home/u/.aws/credentials") == 0
    for grant in (allow("/home/u/.aws/credentials", is_file=True), allow("/home/u/.aws"), allow("/home/u/.ssh")):
        with pytest.raises(PolicyError, match="--bypass-protection"):
            with_holes(Made(AWS), [grant], *holes)


def test_a_hole_is_not_granted_by_itself_but_by_a_grant_around_it() -> None:
    assert reach(with_holes(Made(AWS), [allow("/home/u/src")], "/home/u/.aws/config"), "/home/u/.aws/config") == 0
    result = with_holes(Made(AWS), [allow("/home/u", READ)], "/home/u/.aws/config", "/home/u/.aws/no")
    assert reach(result, "/home/u/.aws/config") == READ
    assert reach(result, "/home/u/.aws/credentials") == reach(result, "/home/u/.aws/sso/a") == 0
    built_in = with_holes(Made(AWS), [allow("/home/u", READ, optional=True)], "/home/u/.aws/config")
    assert reach(built_in, "/home/u/.aws/config") == 0


def test_a_hole_that_is_a_link_opens_nothing_else_that_is_denied() -> None:
    for target in ("/home/u/.ssh/id", "/home/u/.aws", "/", "/home/u"):
        listing = Made({**AWS, "/home/u/.aws/link": f"-> {target}"})
        result = with_holes(listing, [allow("/home/u")], "/home/u/.aws/link")
        assert reach(result, "/home/u/.ssh/id") == reach(result, "/home/u/.aws/config") == 0, target
    listing = Made({**AWS, "/home/u/dot/aws": FILE, "/home/u/.aws/link": "-> /home/u/dot/aws"})
    link = allow("/home/u/.aws/link", is_file=True)
    assert reach(with_holes(listing, [link], "/home/u/.aws/link"), "/home/u/dot/aws") == READ | WRITE
    with pytest.raises(PolicyError):
        with_holes(listing, [link])


def test_a_hole_is_none_in_another_deny_of_the_same_path() -> None:
    for path in ("/home/u/.aws", "/home/u/.aws/config", "/home"):
        with pytest.raises(PolicyError, match=r"denied by --deny .*leave one of them out"):
            with_holes(
                Made(AWS), [allow("/home/u/.aws/config", is_file=True)], "/home/u/.aws/config",
                others=(PathDeny(path, "--deny"),),
            )  # fmt: skip


def test_a_refusal_names_what_would_open_the_path() -> None:
    listing = Made({**AWS, "/home/u/src/link": "-> /home/u/.aws/config"})
    with pytest.raises(PolicyError, match=r"leave it out, or open it with --bypass-protection /home/u/\.aws/config$"):
        with_holes(listing, [allow("/home/u/src/link", is_file=True)])
    for group in ("deny_nono", "credential_files"):
        with pytest.raises(PolicyError, match=r"stays denied; leave it out$"):
            with_holes(listing, [allow("/etc/passwd", is_file=True)], others=(PathDeny("/etc/passwd", group),))


def test_a_socket_in_a_denied_place_is_refused() -> None:
    listing = Made({**AWS, "/home/u/.ssh/agent": FILE, "/home/u/src/link": "-> /home/u/.ssh/agent"})
    for path in ("/home/u/.ssh/agent", "/home/u/src/link", "/home/u/.ssh/not-yet"):
        with pytest.raises(PolicyError, match=f"--allow-unix-socket {path}: it is protected"):
            with_holes(listing, [], sockets=path)
    assert with_holes(listing, [], sockets="/home/u/src/other").pieces == ()
    assert with_holes(listing, [], "/home/u/.aws/sock", sockets="/home/u/.aws/sock").pieces == ()


def test_what_is_granted_as_a_socket_is_one_or_is_not_there() -> None:
    listing = Made({"/tmp/secret": FILE, "/tmp/sock": FILE, "/tmp/dir": DIRECTORY, "/home/u/l": "-> /tmp/secret"})
    for path in ("/tmp/secret", "/tmp/dir", "/home/u/l"):
        with pytest.raises(UsageError, match=f"--allow-unix-socket {path}: is not a socket; leave it out"):
            with_holes(listing, [], sockets=path)
    for path in ("/tmp/sock", "/tmp/not-yet"):
        assert [entry.path for entry in with_holes(listing, [], sockets=path).unix_sockets] == [path]


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
TREES = st.dictionaries(PATHS, st.one_of(st.just(FILE), PATHS.map(lambda path: f"-> {path}")), max_size=14)


def coherent(paths: dict[str, str]) -> dict[str, str]:
    """Leave out what would lie below a file or a link."""
    return {path: kind for path, kind in paths.items() if not any(path.startswith(f"{other}/") for other in paths)}


@settings(max_examples=500, deadline=None)
@given(TREES.map(coherent), st.lists(PATHS, max_size=3), st.lists(PATHS, max_size=3))
def test_nothing_denied_is_reached_and_nothing_else_is_lost(
    tree: dict[str, str], granted: list[str], denied: list[str]
) -> None:
    listing = Made(tree)
    result = expanded(listing, [allow(path, optional=True) for path in granted], denied)
    real_grants = [entry.path for entry in map(listing.look, granted) if entry.kind != ABSENT]
    forbidden = {path for deny in denied for path in (deny, listing.look(deny).path)}

    def below(path: str, places: Iterable[str]) -> bool:
        return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)

    for path, kind in listing.paths.items():
        if kind == FILE:
            if below(path, forbidden):
                assert reach(result, path) == 0, path
            elif below(path, [grant for grant in real_grants if not below(grant, forbidden)]):
                lexical = [g for g in granted if not below(g, forbidden)]
                if below(path, [listing.look(g).path for g in lexical]):
                    assert reach(result, path) == READ | WRITE, path
            elif not below(path, real_grants):
                assert reach(result, path) == 0, path


@settings(max_examples=300, deadline=None)
@given(TREES.map(coherent), st.lists(PATHS, max_size=3), PATHS, st.lists(PATHS, min_size=1, max_size=2), PATHS)
def test_a_hole_opens_nothing_but_itself(
    tree: dict[str, str], granted: list[str], denied: str, tails: list[str], other: str
) -> None:
    listing = Made(tree)
    holes = tuple(denied + tail for tail in tails)
    grants = tuple(allow(path, optional=False) for path in granted if listing.look(path).kind == DIRECTORY)
    denies = (PathDeny(denied, "deny_test", holes=holes), PathDeny(other, "deny_test"))
    try:
        result = expand(CapabilitySet(grants, denies, NETWORK_PROXY, (), "/"), listing)
    except PolicyError:
        return
    opened = {path for hole in holes for path in (hole, listing.look(hole).path)}

    def below(path: str, place: str) -> bool:
        return path == place or path.startswith(place.rstrip("/") + "/")

    for path, kind in listing.paths.items():
        if kind == FILE and any(below(path, each) for each in (other, listing.look(other).path)):
            assert reach(result, path) == 0, path
        elif kind == FILE and any(below(path, each) for each in (denied, listing.look(denied).path)):
            assert reach(result, path) == 0 or any(below(path, each) for each in opened), path
