"""What a run and the proxy alone are both made of: where their keys come from, and the proxy with all that it needs.

Here, as in the whole room, imports stand inside functions where what they cost is not for everybody, or can be paid
while the agent starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from nono.audit.log import AuditLog
from nono.credentials import reference
from nono.credentials.loading import Credential
from nono.kernel import process
from nono.policy.capabilities import CapabilitySet
from nono.policy.resolve import Place
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.loop import Loop
    from nono.policy.allowlist import Allowlist
    from nono.policy.inherit import Inherited
    from nono.proxy.authority import Authority
    from nono.proxy.server import Exchange, Proxy
    from nono.registries.group import Group

UPSTREAM_PROXY = "upstream proxy"  # beside the names of routes, whose credentials are loaded; none has a space


class Parts(Record):
    """What the proxy is made of."""

    capabilities: CapabilitySet
    credentials: dict[str, Credential]
    token: bytes
    port: int
    registries: Group | None = None
    authority: Authority | None = None


class Access(Record):
    """How the agent reaches the proxy of a run. directory: the run's temporary one, for files that say so."""

    port: int
    token: str
    directory: str


def authority_of(capabilities: CapabilitySet) -> Authority | None:
    """Return the authority for hosts whose TLS is intercepted; None where none is, or its library is missing."""
    if not capabilities.intercept:
        return None
    try:
        from nono.proxy.authority import Authority  # 60 ms: only who has it pays
    except ImportError:
        return None  # the proxy's refusals name the extra
    return Authority()


def registries_of(
    capabilities: CapabilitySet, environment: Mapping[str, str], place: Place, notice: Callable[[str], None]
) -> Group | None:
    """Return the group of the package registries, as far as it is known; None when it is not granted."""
    if not capabilities.registries:
        return None
    from nono.registries.group import Group  # only who has it pays

    group = Group(environment, place, capabilities.grants, capabilities.denies)
    for note in group.notes:
        notice(note)
    return group


def settings_for_managers(
    capabilities: CapabilitySet, environment: Mapping[str, str], place: Place, proxy: Access
) -> dict[str, str]:
    """Return the variables that lead package managers to their settings for this run, which are written."""
    if capabilities.allowlist is None:
        return {}
    from nono.registries.settings import hand_over, has_maven

    variables = hand_over(place, environment, proxy.directory)
    if has_maven(environment, place.workdir):
        from nono.registries import maven

        variables.update(
            maven.hand_over(place, proxy.directory, port=proxy.port, token=proxy.token, no_proxy=capabilities.no_proxy)
        )
    return variables


def references_of(capabilities: CapabilitySet) -> dict[str, reference.Reference]:
    """Return where each credential of a run comes from."""
    references = {route.name: reference.parse(route.credential_key) for route in capabilities.routes}
    through = capabilities.upstream_proxy
    if through is not None and through.credential:
        references[UPSTREAM_PROXY] = reference.parse(through.credential)
    return references


def make_proxy(
    loop: Loop, listener_fd: int, run: Parts, audit: AuditLog, admits: Callable[[int], bool] | None = None
) -> Proxy:
    """Return the proxy of this run, serving `listener_fd` (its own from now on).

    admits: says of the port that a connection came from whether it is the agent's; None: whoever reaches us is.
    """
    from nono.proxy.server import BoundRoute, Chain, Limits, Proxy

    def opened(exchange: Exchange) -> None:
        audit.show(exchange)
        loop.call_soon(audit.flush)

    process.raise_open_files_limit()
    bound = [BoundRoute(route, run.credentials.get(route.name)) for route in run.capabilities.routes]
    hosts = run.capabilities
    allowlist = hosts.allowlist
    if allowlist is not None and run.registries is not None:
        allowlist.add(run.registries.hosts)
    chain, through = None, hosts.upstream_proxy
    if through is not None:
        chain = Chain(through.host, through.port, through.bypass, run.credentials.get(UPSTREAM_PROXY))
    proxy = Proxy(
        loop, listener_fd, run.token, run.port, bound, allowlist, Limits(), recorder(loop, audit),
        intercept=run.authority, lacks_library=hosts.intercept and run.authority is None, chain=chain,
        opened=opened if audit.is_watched else None, admits=admits,
    )  # fmt: skip
    if allowlist is not None and run.registries is not None and run.registries.stale:
        _ask_package_managers(loop, run.registries, allowlist, proxy)
    return proxy


def _ask_package_managers(loop: Loop, group: Group, allowlist: Allowlist, proxy: Proxy) -> None:
    """Find out, beside the child's start, what is not known of the package registries."""
    from nono.registries.refresh import Refresh

    def add(hosts: Iterable[str]) -> None:
        allowlist.add(hosts)
        proxy.latecomers.came()

    refresh = Refresh(loop, add, proxy.latecomers.over)
    proxy.latecomers.expect()
    loop.call_soon(lambda: refresh.start(group))


def recorder(loop: Loop, audit: AuditLog) -> Callable[[Exchange], None]:
    """Return what writes an exchange into the audit log."""
    from nono.proxy.server import Exchange

    def record(exchange: Exchange) -> None:
        if audit.append(Exchange._fields, exchange):
            loop.call_soon(audit.flush)

    return record


def profile_of(profile: str | None, extends: Sequence[str], place: Place) -> Inherited | None:
    """Return what the profile and those of --extends, which come below it, say together; None without any."""
    names = (*extends, *([profile] if profile is not None else ()))
    if not names:
        return None
    from nono.policy.inherit import inherit  # only who names a profile pays
    from nono.supervisor.profiles import Profiles, find_facts

    return inherit(names, Profiles(place).read, lambda: find_facts(place.platform))
