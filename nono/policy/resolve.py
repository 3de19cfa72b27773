"""Flags + profile + built-in groups -> the CapabilitySet of one run.

Pure: no disk, no environment; what the user typed and where he stands come in as data (Request, Place), one
CapabilitySet goes out. Flags add to the profile, they never take from it; a restriction (`--block-net`) is never
undone by a grant.

The network: blocked if anyone says so; else restricted to the proxy if any credential or host is named; else open, as
users of the existing tool expect, and the summary says so.
"""

from __future__ import annotations

import posixpath

from nono.errors import PolicyError, UsageError
from nono.policy import groups
from nono.policy.allowlist import Allowlist
from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    READ,
    WRITE,
    CapabilitySet,
    PathGrant,
)
from nono.policy.network import select_routes
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.policy.profile import Profile

# A field of Request and of the profile's `filesystem` -> what it grants. The flag is its name with dashes.
PATH_FIELDS: tuple[tuple[str, int, bool], ...] = (
    ("allow", READ | WRITE, False),
    ("read", READ, False),
    ("write", WRITE, False),
    ("allow_file", READ | WRITE, True),
    ("read_file", READ, True),
    ("write_file", WRITE, True),
)
_WORKDIR_ACCESS = {"none": 0, "read": READ, "write": WRITE, "readwrite": READ | WRITE}


class Place(Record):
    """Where the user stands: absolute paths.

    config_home, state_home, runtime_dir, data_home: the XDG base directories or their defaults. platform: sys.platform.
    """

    home: str
    workdir: str
    temporary_directory: str
    config_home: str
    state_home: str
    runtime_dir: str
    data_home: str = ""
    platform: str = "linux"

    @property
    def profiles(self) -> str:
        """The directory of the profiles that are named without a path."""
        return f"{self.config_home}/nono/profiles"

    @property
    def state(self) -> str:
        """nono's own state directory."""
        return f"{self.state_home}/nono"


class Request(Record):
    """The policy flags of one command line, as typed."""

    allow: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    allow_file: tuple[str, ...] = ()
    read_file: tuple[str, ...] = ()
    write_file: tuple[str, ...] = ()
    allow_cwd: bool = False
    block_net: bool = False
    credential: tuple[str, ...] = ()
    allow_domain: tuple[str, ...] = ()
    deny_domain: tuple[str, ...] = ()


def resolve(
    request: Request,
    profile: Profile | None,
    place: Place,
    command_grants: tuple[PathGrant, ...] = (),
) -> CapabilitySet:
    """Return what the run may do.

    command_grants: read access that the command itself needs to start (its file and its installation), found by the
    caller. Raises UsageError for a flag, PolicyError for a profile, that cannot be honoured.
    """
    grants = list(_flag_grants(request, place))
    blocked, names, custom = request.block_net, list(request.credential), {}
    allowed, denied = request.allow_domain, request.deny_domain
    if profile is not None:
        grants += _profile_grants(profile, place)
        blocked = blocked or profile.network.block
        names = [*profile.network.credentials, *names]
        allowed, denied = (*profile.network.allow_domain, *allowed), (*profile.network.deny_domain, *denied)
        custom = profile.custom_routes()
        for fields in custom.values():
            for field in ("tls_ca", "tls_client_cert", "tls_client_key"):
                if fields.get(field):
                    fields[field] = expand(fields[field], place)
    if blocked and (names or allowed):
        what = "a credential" if names else "--allow-domain"
        raise UsageError(f"--block-net and {what} exclude each other: one needs the network; give up one of them")
    if denied and not allowed:
        raise UsageError("--deny-domain takes hosts out of what --allow-domain grants; alone it has no effect")
    Allowlist(allowed, denied)  # raises for an entry that is not sound
    network = NETWORK_BLOCKED if blocked else NETWORK_PROXY if names or allowed else NETWORK_OPEN
    return CapabilitySet(
        grants=(
            *grants,
            *command_grants,
            *groups.system_grants(place.home, place.config_home, platform=place.platform),
        ),
        denies=groups.sensitive_paths(
            place.home,
            place.config_home,
            place.state_home,
            place.runtime_dir,
            data_home=place.data_home,
            platform=place.platform,
        ),
        network=network,
        routes=select_routes(names, custom),
        workdir=place.workdir,
        allowed_hosts=tuple(dict.fromkeys(allowed)),
        denied_hosts=tuple(dict.fromkeys(denied)),
    )


def _flag_grants(request: Request, place: Place) -> list[PathGrant]:
    grants: list[PathGrant] = []
    for field, access, is_file in PATH_FIELDS:
        flag = "--" + field.replace("_", "-")
        grants += [PathGrant(expand(path, place), access, is_file, flag) for path in getattr(request, field)]
    if request.allow_cwd:
        grants.append(PathGrant(place.workdir, READ | WRITE, False, "--allow-cwd"))
    return grants


def _profile_grants(profile: Profile, place: Place) -> list[PathGrant]:
    origin = f"profile {profile.meta.name}" if profile.meta.name else "profile"
    grants: list[PathGrant] = []
    for field, access, is_file in PATH_FIELDS:
        paths = getattr(profile.filesystem, field)
        grants += [PathGrant(expand(path, place), access, is_file, origin) for path in paths]
    if profile.workdir.access not in _WORKDIR_ACCESS:
        raise PolicyError(
            f"{origin}: workdir.access {profile.workdir.access!r} is not one of {', '.join(_WORKDIR_ACCESS)}"
        )
    if access := _WORKDIR_ACCESS[profile.workdir.access]:
        grants.append(PathGrant(place.workdir, access, False, origin))
    return grants


def expand(path: str, place: Place) -> str:
    """Return `path` absolute and normalised, with a leading ~, $HOME, $WORKDIR or $TMPDIR replaced.

    A relative path is taken from the working directory. Raises UsageError for an empty path, a NUL or an unknown
    variable.
    """
    if not path or "\0" in path:
        raise UsageError("a path must not be empty or hold a NUL byte")
    head, slash, tail = path.partition("/")
    known = {"~": place.home, "$HOME": place.home, "$WORKDIR": place.workdir, "$TMPDIR": place.temporary_directory}
    if head in known:
        path = known[head] + slash + tail
    elif head.startswith("$"):
        raise UsageError(f"{path}: only ~, $HOME, $WORKDIR and $TMPDIR are expanded in paths")
    elif head.startswith("~"):
        raise UsageError(f"{path}: only ~ itself is expanded, not another user's home")
    return posixpath.normpath(posixpath.join(place.workdir, path))
