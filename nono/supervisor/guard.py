"""What a run must not hand to the agent by accident: keys by another way, nono's own code, sockets of the host.

Looks, and refuses or names paths; changes nothing. Everything here is about the user's side of the wall: the agent of
*this* run must not be able to change what nono or its user will execute or obey in the *next* one.

- `protected_paths`: the files that hold this run's keys stay closed under any grant. What nono is made of (its code,
  its interpreter, the directories it imports from) and what it was told by (the profiles, certificates) stays readable
  where it was granted, but is never writable: the supervisor goes on importing after the agent has started.
- `check_tls_files`, `check_keys`, `check_upstream_credential`: what the proxy could not use.
- `refuse_keys_in_argv`, `secret_variables`: a key that the user also put somewhere else.
- `env_credentials`: the keys that he does want the agent to hold.
- `close_stores`: what the agent may have opened to others; Landlock does not confine chmod(2).
- `check_standard_streams`: a socket on descriptor 0, 1 or 2 belongs to the host's network, whatever the child's is.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module

import nono
from nono.credentials.credential import Credential
from nono.credentials.reference import ENV, FILE, Reference
from nono.errors import CredentialError, PolicyError, UsageError
from nono.policy.capabilities import NETWORK_OPEN, READ, WRITE, PathDeny
from nono.policy.routes import MAX_KEY_BYTES, Route

# What OpenSSL, which is loaded after the agent has started, reads: trust, settings, code. Colons separate lists.
_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES")

_MOST_LINKS = 40  # on the way to one file, as the kernel has it
_SHORTEST_RECOGNISABLE_KEY = 8  # bytes; a shorter one would be found in innocent variables
_LONGEST_USER_AND_PASSWORD = 4096  # bytes; with its head it must fit into locked scratch memory, nono/proxy/chain.py


def protected_paths(
    routes: Iterable[Route],
    references: Iterable[Reference],
    profiles: Iterable[str],
    environment: Mapping[str, str],
    closed: Iterable[str] = (),
) -> tuple[PathDeny, ...]:
    """Return the paths that no grant of this run opens (the keys) or makes writable (everything else).

    profiles: the files that were read, also of those that were extended. environment: nono's own, which tells OpenSSL
    whom to trust. closed: paths that are closed anyway; the links on the way to them are not to be replaced either.
    """
    keys = [reference.name for reference in references if reference.scheme == FILE]
    keys += [route.tls_client_key for route in routes if route.tls_client_key]
    told = [path for route in routes for path in (route.tls_ca, route.tls_client_cert) if path]
    told += profiles
    told += [path for name in _TLS_VARIABLES for path in environment.get(name, "").split(":") if path]
    code = {*nono.__path__, *sys.path, sys.prefix, sys.exec_prefix, sys.executable, os.path.realpath(sys.executable)}
    return (
        *(PathDeny(os.path.realpath(path), "credential_files", READ | WRITE) for path in keys),
        *(PathDeny(os.path.realpath(path), "settings of this run, read-only", WRITE) for path in told),
        *(
            PathDeny(link, "settings of this run, read-only", WRITE, is_link=True)
            for link in dict.fromkeys(link for path in (*told, *keys, *closed) for link in links_on_the_way(path))
        ),
        *(PathDeny(os.path.realpath(path), "nono's own code, read-only", WRITE) for path in code if path),
    )


def links_on_the_way(path: str) -> list[str]:
    """Return the symbolic links on the way to what `path` names, each in a real directory.

    Whoever may replace one of them says what the name means the next time.
    """
    links: list[str] = []
    at, left = "/", os.path.abspath(path).split("/")[::-1]
    while left and len(links) < _MOST_LINKS:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        try:
            target = os.readlink(here)
        except OSError:
            at = here
            continue
        links.append(here)
        left += target.split("/")[::-1]
        at = "/" if target.startswith("/") else at
    return links


def check_tls_files(routes: Iterable[Route]) -> None:
    """Refuse, before anything starts, a route whose certificate files cannot be read."""
    for route in routes:
        for field in ("tls_ca", "tls_client_cert", "tls_client_key"):
            path = getattr(route, field)
            if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                raise PolicyError(f"credential '{route.name}': {field} {path} does not exist or cannot be read")


def check_keys(routes: Iterable[Route], credentials: Mapping[str, Credential]) -> None:
    """Refuse, before anything starts, a key that is too long to be put into a request."""
    for route in routes:
        most = MAX_KEY_BYTES[route.inject.inject_mode]
        if route.name in credentials and credentials[route.name].length > most:
            raise CredentialError(
                f"the key of '{route.name}' is longer than {most} bytes, which no service asks for; "
                "store the key itself, not a file of keys"
            )


def refuse_keys_in_argv(argv: Sequence[str], credentials: Mapping[str, Credential]) -> None:
    """Raise UsageError when the command line itself contains a key that was loaded."""
    for name, credential in credentials.items():
        if any(_contains(argument, credential) for argument in argv):
            raise UsageError(
                f"the command line itself contains the key of '{name}', so the agent would have it; "
                "leave it out: the agent finds a token in its environment, and the proxy puts the key in"
            )


def check_upstream_credential(credential: Credential | None) -> None:
    """Refuse, before anything starts, a credential of the upstream proxy that cannot be sent as Basic (RFC 7617)."""
    if credential is not None and (0x3A not in credential.view or credential.length > _LONGEST_USER_AND_PASSWORD):
        raise CredentialError(
            f"the credential '{credential.name}' of the upstream proxy is not USER:PASSWORD; store it as that"
        )


def secret_variables(
    environment: Mapping[str, str],
    references: Iterable[Reference],
    credentials: Mapping[str, Credential],
) -> list[str]:
    """Return the variables that hold a real key: the env:// sources, and any whose value contains a loaded key."""
    named = [reference.name for reference in references if reference.scheme == ENV]
    found = [name for name, value in environment.items() if any(_contains(value, c) for c in credentials.values())]
    return named + found


def env_credential_name(variable: str) -> str:
    """Return the name, beside those of routes, under which the key for `variable` is loaded; no route has a space."""
    return f"variable {variable}"


def env_credentials(pairs: Iterable[tuple[str, str]], credentials: Mapping[str, Credential]) -> list[bytes]:
    """Return VARIABLE=KEY for execve(2), for each (reference, variable) that the user wants the agent to hold.

    These are copies outside the locked memory: make them last, and let go of them when the child has started.
    """
    return [
        b"".join((variable.encode(), b"=", credentials[env_credential_name(variable)].view)) for _, variable in pairs
    ]


def exposed_keys(pairs: Iterable[tuple[str, str]], credentials: Mapping[str, Credential]) -> list[memoryview]:
    """Return the keys that the user wants the agent to hold, but for those that would be found in innocent text."""
    keys = (credentials[env_credential_name(variable)] for _, variable in pairs)
    return [key.view for key in keys if key.length >= _SHORTEST_RECOGNISABLE_KEY]


def _contains(text: str, credential: Credential) -> bool:
    """Whether `text` contains the key. bytes.find() reads the locked memory in place."""
    return credential.length >= _SHORTEST_RECOGNISABLE_KEY and os.fsencode(text).find(credential.view) >= 0


def close_stores(directories: Iterable[str], *, whole: bool) -> None:
    """Give nono's directories back the modes that keep other users out and the user in. whole: and what is in them.

    Contents by their hash (rollback/objects.py) may be a million: of those the directories only; Store.open does the
    rest.
    """
    waiting = list(directories)
    while waiting:
        directory = waiting.pop()
        try:
            os.chmod(directory, 0o700)
            if not whole or os.path.basename(os.path.dirname(directory)) == "objects":
                continue
            for entry in os.scandir(directory):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and not _is_private(entry.stat(follow_symlinks=False)):
                    os.chmod(entry.path, 0o600)
        except OSError:
            pass  # not there, or not ours: then it is not ours to close


def _is_private(status: os.stat_result) -> bool:
    return stat.S_IMODE(status.st_mode) in (0o400, 0o600)


def check_standard_streams(network: str) -> None:
    """Refuse a socket on descriptor 0, 1 or 2 through which the child could reach the host's network.

    A TCP socket stays in the namespace it was made in and can be connected anew; a listening one accepts; a datagram
    socket of AF_UNIX sends to any path. What remains is a connected stream to whoever started nono (as node's).
    """
    for fd in (0, 1, 2):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue  # closed
        if not _is_harmless_socket(fd, network):
            raise UsageError(
                f"descriptor {fd} is a socket of this machine's network, which the agent could use to get out; "
                "start nono with a pipe or a file there, e.g.: … | nono run … | cat"
            )


def _is_harmless_socket(fd: int, network: str) -> bool:
    socket = import_module("socket")  # 4 ms that only who passes a socket waits for
    with socket.socket(fileno=os.dup(fd)) as sock:
        is_listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        is_stream = sock.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
        if sock.family != socket.AF_UNIX:
            return network == NETWORK_OPEN and is_stream
        try:
            sock.getpeername()
        except OSError:
            return False
        return is_stream and not is_listening
