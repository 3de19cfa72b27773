"""What a run would be allowed, from its order: the same few steps for whoever carries it out, explains or records it.

`decide` reads flags, profile and command, and asks nobody for a key. `complete` adds what only this run has: its
temporary directory, the files on its standard streams, and what is protected on its account. Both refuse what cannot
be honoured, so that `nono why` says what `nono run` would say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.credentials import reference
from nono.credentials.reference import Reference
from nono.policy.capabilities import READ, TEMPORARY_DIRECTORY, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.policy.protection import NONO
from nono.policy.resolve import Place, Request, resolve
from nono.record import Record
from nono.sandbox import filesystem
from nono.session import audit_key, signing_keys
from nono.session.parts import profile_of, references_of
from nono.session.stores import destinations
from nono.supervisor import command as commands
from nono.supervisor import guard, planted
from nono.supervisor.command import Command
from nono.supervisor.whereabouts import find_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.policy.inherit import Inherited

_STANDARD = (0, 1, 2)


class Order(Record):
    """What the user asked for. argv: the command; () for none, where nothing is started. profile: a NAME or a FILE.

    workdir, proxy_port: None: default. name: the user's, of this run, for the audit log. audit_sign_key: signs that.
    """

    argv: tuple[str, ...]
    request: Request
    profile: str | None = None
    workdir: str | None = None
    proxy_port: int | None = None
    dry_run: bool = False
    name: str = ""
    audit_sign_key: str = ""


class Decision(Record):
    """What the order comes to. command, inherited: None without one. references: where each credential comes from."""

    place: Place
    command: Command | None
    inherited: Inherited | None
    capabilities: CapabilitySet
    references: dict[str, Reference]


def decide(order: Order, environment: Mapping[str, str]) -> Decision:
    """Return what `order` comes to for a user with this environment. Raises NonoError for what cannot be honoured."""
    place = find_place(order.workdir, environment)
    command = commands.find(order.argv[0], environment, place.home) if order.argv else None
    inherited = profile_of(order.profile, order.request.extends, place)
    grants = command.grants if command is not None else ()
    capabilities = resolve(order.request, inherited, place, grants, environment)
    if capabilities.open_ports or capabilities.listen_ports:
        from nono.supervisor import ports

        ports.check(capabilities.network, capabilities.open_ports, capabilities.listen_ports, order.proxy_port)
    guard.check_tls_files(capabilities.routes)
    references = references_of(capabilities)
    for text, variable in capabilities.env_credentials:  # those that the agent itself gets
        references[guard.env_credential_name(variable)] = reference.parse(text)
    if order.audit_sign_key:
        references[audit_key.NAME] = audit_key.reference_of(order.audit_sign_key)
    return Decision(place, command, inherited, capabilities, references)


def complete(
    decision: Decision,
    environment: Mapping[str, str],
    *,
    temporary_directory: str,
    inherited: Iterable[int] = _STANDARD,
    denies: Iterable[PathDeny] = (),
) -> CapabilitySet:
    """Return the capabilities with what only this run has.

    temporary_directory: the run's own. inherited: which of the standard streams the agent gets as they are. denies:
    what is protected besides (the limits' files).
    """
    has = decision.capabilities
    files = decision.inherited.files if decision.inherited is not None else ()
    place = decision.place
    deciding = signing_keys.deciding(place)
    closed = (place.profiles, f"{place.config_home}/nono/config.toml", place.state, *deciding)
    protected = guard.protected_paths(has.routes, decision.references.values(), files, environment, closed)
    stores = (PathDeny(path, NONO) for path in destinations(place)[1:])  # the first is in the state
    denies = (*has.denies, *protected, *stores, *signing_keys.denies(place), *denies)
    return has._replace(
        grants=(
            *planted.without_planted(has.grants, has.unix_sockets, denies, place.home),
            PathGrant(temporary_directory, READ | WRITE, False, TEMPORARY_DIRECTORY, optional=True),
            *filesystem.standard_stream_grants(inherited),
        ),
        denies=denies,
    )
