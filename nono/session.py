"""One run, from its order to its exit status: the only place where the rooms are put together.

Read it top to bottom; the order is the point. Everything that can be refused is refused before the child exists (P7):
the credentials are in locked memory, and the keystore's connection is gone, before the spawn (P1). What only the proxy
needs (ssl, h11, the loop) is imported while the child starts, because that is what a user waits for; so this file,
and only this one, imports inside functions. A request that the child makes before the proxy serves waits in the
listener's backlog, which is there since the spawn.

Each room is entered once and left once (context managers): the temporary directory, the audit log, the signals, the
credentials. However the run ends, nothing that it started is left running and no key is left in memory.
"""

from __future__ import annotations

import gc
import os
import signal
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module

from nono.audit.log import AuditLog
from nono.credentials import env, phantom, reference
from nono.credentials.loading import Credential, Loader
from nono.errors import CommandNotExecutable, PolicyError, UsageError
from nono.kernel import landlock, process
from nono.kernel.spawn import Child, SpawnError, spawn
from nono.policy.capabilities import NETWORK_PROXY, READ, WRITE, CapabilitySet, PathGrant
from nono.policy.environment import ChildEnvironment, child_environment
from nono.policy.resolve import Place, Request, resolve
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan, make_plan
from nono.supervisor import command as commands
from nono.supervisor import guard
from nono.supervisor.job import Job, Signals, Terminal, children, kill_descendants
from nono.supervisor.scratch import ScratchDirectory
from nono.supervisor.whereabouts import find_place, find_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from nono.loop import Loop
    from nono.policy.allowlist import Allowlist
    from nono.policy.profile import Profile
    from nono.proxy.authority import Authority
    from nono.proxy.server import Exchange, Proxy
    from nono.registries.group import Group
    from nono.supervisor.relay import Relays

# Above Linux's ephemeral ports (ip_local_port_range: 32768-60999) and the ports of development servers, so that it is
# in nobody's way.
_PROXY_PORTS = range(61000, 65536)
_DELIVERY_S = 0.5  # how long relays deliver what the child sent before it ended
_UPSTREAM_PROXY = "upstream proxy"  # beside the names of routes, whose credentials are loaded; none has a space
_DRAIN_S = 5.0  # how long `nono proxy` lets exchanges end after it was told to stop
_WARM_S = 0.25  # for which `nono proxy` waits, at most, for its first connections


class Order(Record):
    """What the user asked for. argv: the command. profile: a NAME or a FILE. workdir, proxy_port: None: default."""

    argv: tuple[str, ...]
    request: Request
    profile: str | None = None
    workdir: str | None = None
    proxy_port: int | None = None
    dry_run: bool = False


class ServeOrder(Record):
    """What the user asked of `nono proxy`. port: on 127.0.0.1; 0 for any."""

    request: Request
    profile: str | None = None
    port: int = 0


class Summary(Record):
    """What the child may do, for the user.

    routes: (name, upstream host, where its key came from). intercepts: TLS is intercepted, where it is wanted. leaks:
    what this wall does not stop. exposed: variables with secrets that the profile lets through.
    """

    argv: tuple[str, ...]
    capabilities: CapabilitySet
    grants: tuple[PathGrant, ...]
    routes: tuple[tuple[str, str, str], ...]
    withheld: tuple[str, ...]
    added_variables: tuple[str, ...]
    notes: tuple[str, ...]
    wall: str
    intercepts: bool = False
    leaks: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()


def run(
    order: Order,
    environment: Mapping[str, str],
    tell: Callable[[Summary], None],
    notice: Callable[[str], None],
    view: Callable[[Sequence[Exchange]], None] | None = None,
    footer: Callable[[Sequence[str]], None] | None = None,
) -> int:
    """Carry out `order`; return the child's exit status.

    tell: called once, before the child starts. notice: called with a sentence for the user, e.g. that the keystore
    waits for his answer. view: called now and then, with the exchanges that have ended since.
    footer: called at the end, with the reasons of all refusals.
    Raises NonoError when the child must not start, or when the run broke down; then nothing of it is left running.
    """
    place = find_place(order.workdir, environment)
    command = commands.find(order.argv[0], environment, place.home)
    profile_path = find_profile(order.profile, place)
    capabilities = resolve(order.request, _profile(profile_path), place, command.grants, environment)
    if capabilities.open_ports or capabilities.listen_ports:
        from nono.supervisor import ports

        ports.check(capabilities.network, capabilities.open_ports, capabilities.listen_ports, order.proxy_port)
    guard.check_standard_streams(capabilities.network)
    guard.check_tls_files(capabilities.routes)
    references = _references(capabilities)
    handed_over = env.hand_over(references.values())  # with an env:// source: starts nono anew, without the variable
    with Loader(place.state, handed_over, notice=notice) as loader:
        if not order.dry_run:
            loader.start(references)
        with ScratchDirectory(place.temporary_directory, create=not order.dry_run) as scratch:
            grant = PathGrant(scratch.path, READ | WRITE, False, "temporary directory", optional=True)
            grants = (*capabilities.grants, grant, *filesystem.standard_stream_grants())
            protected = guard.protected_paths(capabilities.routes, references.values(), profile_path, environment)
            denies = (*capabilities.denies, *protected)
            capabilities = capabilities._replace(grants=grants, denies=denies)
            plan = make_plan(filesystem.expand(capabilities), landlock.abi(), os.uname().machine)
            authority = _authority(capabilities)
            ca_bundle = os.path.join(scratch.path, "ca-bundle.pem") if authority else ""
            if authority and not order.dry_run:
                authority.write_bundle(ca_bundle, environment)
            credentials = {} if order.dry_run else loader.collect()
            guard.check_upstream_credential(credentials.get(_UPSTREAM_PROXY))
            token = phantom.new_token()
            port = order.proxy_port or _any_proxy_port((*capabilities.open_ports, *capabilities.listen_ports))
            guard.check_keys(capabilities.routes, credentials)
            guard.refuse_keys_in_argv(order.argv, credentials)
            settings: dict[str, str] = {}
            if capabilities.allowlist is not None and not order.dry_run:
                from nono.registries.settings import hand_over

                settings = hand_over(place, environment, scratch.path)
            variables = child_environment(
                {**environment, **settings},
                network=capabilities.network,
                routes=capabilities.routes,
                proxy_port=port,
                token=token.decode(),
                temporary_directory=scratch.path,
                secret_variables=guard.secret_variables(environment, references.values(), credentials),
                ca_bundle=ca_bundle,
                no_proxy=capabilities.no_proxy,
                home=place.home,
                grants=capabilities.grants,
            )
            summary = _summary(order, capabilities, plan, variables, credentials, environment)
            tell(summary._replace(intercepts=authority is not None))
            if order.dry_run:
                return 0
            registries = _registries(capabilities, environment, place, notice)
            run = _Run(capabilities, credentials, token, port, registries, authority)
            argv = [os.fsencode(argument) for argument in order.argv]
            with AuditLog(place.state, notice, view, footer) as audit, Signals() as signals, Terminal() as terminal:
                strangers = children()  # of whoever became nono by exec
                process.set_child_subreaper()
                host_listeners = _listen_on_host(capabilities.listen_ports)
                try:
                    child = _start(command.path, argv, variables.variables, place.workdir, plan, run, terminal)
                    return _supervise(run, child, host_listeners, terminal, signals, audit)
                finally:
                    for listener in host_listeners.values():
                        listener.close()
                    kill_descendants(strangers)
                    guard.close_store(place.state)


class _Run(Record):
    """What the proxy is made of."""

    capabilities: CapabilitySet
    credentials: dict[str, Credential]
    token: bytes
    port: int
    registries: Group | None = None
    authority: Authority | None = None


def _authority(capabilities: CapabilitySet) -> Authority | None:
    """Return the authority for hosts whose TLS is intercepted; None where none is, or its library is missing."""
    if not capabilities.intercept:
        return None
    try:
        from nono.proxy.authority import Authority  # 60 ms: only who has it pays
    except ImportError:
        return None  # the proxy's refusals name the extra
    return Authority()


def _registries(
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


def _references(capabilities: CapabilitySet) -> dict[str, reference.Reference]:
    """Return where each credential of a run comes from."""
    references = {route.name: reference.parse(route.credential_key) for route in capabilities.routes}
    through = capabilities.upstream_proxy
    if through is not None and through.credential:
        references[_UPSTREAM_PROXY] = reference.parse(through.credential)
    return references


def _start(
    path: str,
    argv: Sequence[bytes],
    variables: Mapping[str, str],
    workdir: str,
    plan: Plan,
    run: _Run,
    terminal: Terminal,
) -> Child:
    """Spawn the child behind its wall; CommandNotExecutable when all but its exec succeeded."""
    ruleset = filesystem.open_ruleset(plan)
    try:
        return spawn(
            path=os.fsencode(path),
            argv=argv,
            envp=[os.fsencode(f"{name}={value}") for name, value in variables.items()],
            workdir=os.fsencode(workdir),
            namespaces=plan.namespaces,
            listen_ports=(run.port, *run.capabilities.open_ports) if plan.proxied else run.capabilities.open_ports,
            keep_network=bool(run.capabilities.listen_ports),
            ruleset_fd=ruleset,
            seccomp_filter=plan.seccomp_filter,
            new_process_group=not terminal.shared,
            foreground_tty_fd=terminal.handed_fd,
        )
    except SpawnError as error:
        if error.step == "exec":
            raise CommandNotExecutable(str(error)) from None
        raise
    finally:
        os.close(ruleset)


def _any_proxy_port(taken: Sequence[int]) -> int:
    """Return a port for the proxy that is not among the relays' ports."""
    while (port := _PROXY_PORTS[int.from_bytes(os.urandom(2)) % len(_PROXY_PORTS)]) in taken:
        pass
    return port


def _listen_on_host(listen_ports: Sequence[int]) -> dict[int, _socket.socket]:
    """Return a listening socket of this machine for each port."""
    if not listen_ports:
        return {}
    from nono.supervisor import ports

    return ports.listen_on_host(listen_ports)


def _supervise(
    run: _Run,
    child: Child,
    host_listeners: Mapping[int, _socket.socket],
    terminal: Terminal,
    signals: Signals,
    audit: AuditLog,
) -> int:
    """Serve the child until it exits; return its exit status. Late imports: the child is starting meanwhile."""
    from nono.loop import READ as READABLE
    from nono.loop import Loop

    gc.enable()  # see __main__.py
    statuses: list[int] = []
    loop = Loop()

    def ended(status: int) -> None:
        statuses.append(status)
        loop.stop()

    job = Job(child.pid, terminal, ended)
    loop.register(signals.fd, READABLE, lambda _: job.handle(signals.take()))
    is_proxied = run.capabilities.network == NETWORK_PROXY
    is_relayed = bool(run.capabilities.open_ports or run.capabilities.listen_ports)
    if not is_proxied and not is_relayed:
        loop.run()
        return statuses[0]

    for library in ("ssl", "h11"):  # 45 ms; a command that has already ended is not kept waiting for them
        job.handle(signals.take())
        if statuses and not is_relayed:
            return statuses[0]
        import_module(library)
    proxy = relays = None
    try:
        if is_proxied:
            proxy = _make_proxy(loop, child.listener_fds[0], run, audit)
            proxy.warm()
        if is_relayed:
            relays = _make_relays(loop, child, host_listeners, run, audit)
        if not statuses:
            loop.run()
        if relays is not None:
            relays.drain(_DELIVERY_S, loop.stop)
            loop.run()
    finally:
        if relays is not None:
            relays.close()
        if proxy is not None:
            proxy.close()
    return statuses[0]


def _make_proxy(loop: Loop, listener_fd: int, run: _Run, audit: AuditLog) -> Proxy:
    """Return the proxy of this run, serving `listener_fd` (its own from now on)."""
    from nono.proxy.server import BoundRoute, Chain, Limits, Proxy

    def opened(exchange: Exchange) -> None:
        audit.show(exchange)
        loop.call_soon(audit.flush)

    process.raise_open_files_limit()
    bound = [BoundRoute(route, run.credentials[route.name]) for route in run.capabilities.routes]
    hosts = run.capabilities
    allowlist = hosts.allowlist
    if allowlist is not None and run.registries is not None:
        allowlist.add(run.registries.hosts)
    chain, through = None, hosts.upstream_proxy
    if through is not None:
        chain = Chain(through.host, through.port, through.bypass, run.credentials.get(_UPSTREAM_PROXY))
    proxy = Proxy(
        loop, listener_fd, run.token, run.port, bound, allowlist, Limits(), _recorder(loop, audit),
        intercept=run.authority, lacks_library=hosts.intercept and run.authority is None, chain=chain,
        opened=opened if audit.is_watched else None,
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


def _make_relays(
    loop: Loop, child: Child, host_listeners: Mapping[int, _socket.socket], run: _Run, audit: AuditLog
) -> Relays:
    """Return the relays of this run, serving the child's listeners but the proxy's, and those of the host."""
    from nono.supervisor.relay import Relays

    process.raise_open_files_limit()
    relays = Relays(loop, child.network_fd, _recorder(loop, audit))
    opened = run.capabilities.open_ports
    for port, listener_fd in zip(opened, child.listener_fds[-len(opened) :], strict=True) if opened else ():
        relays.open_port(port, listener_fd)
    for port, listener in host_listeners.items():
        relays.listen_port(port, listener.detach())
    return relays


def _recorder(loop: Loop, audit: AuditLog) -> Callable[[Exchange], None]:
    """Return what writes an exchange into the audit log."""
    from nono.proxy.server import Exchange

    def record(exchange: Exchange) -> None:
        if audit.append(Exchange._fields, exchange):
            loop.call_soon(audit.flush)

    return record


def serve(
    order: ServeOrder,
    environment: Mapping[str, str],
    ready: Callable[[int, Mapping[str, str]], None],
    notice: Callable[[str], None],
    view: Callable[[Sequence[Exchange]], None] | None = None,
) -> int:
    """Run the proxy alone, on the host's loopback, until INT, TERM or HUP; return 0.

    For an agent that is isolated by other means: nothing confines it here, and whoever knows the token can use the
    proxy. ready: called once it serves, with the port and the variables to hand over. notice, view, errors: as `run`.
    """
    place = find_place(None, environment)
    capabilities = resolve(order.request, _profile(find_profile(order.profile, place)), place, (), environment)
    if capabilities.network != NETWORK_PROXY:
        raise UsageError(
            "the proxy has no route to serve; name one with --credential NAME, --network-profile NAME, "
            "--allow-domain HOST or in a profile"
        )
    guard.check_tls_files(capabilities.routes)
    references = _references(capabilities)
    handed_over = env.hand_over(references.values())
    if (through := capabilities.upstream_proxy) is not None:
        notice(f"upstreams are reached through the proxy {through.host}:{through.port} ({through.origin})")
    process.set_dumpable(False)
    with Loader(place.state, handed_over, notice=notice) as loader, AuditLog(place.state, notice, view) as audit:
        loader.start(references)
        import socket

        from nono.loop import READ as READABLE
        from nono.loop import Loop

        gc.enable()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", order.port))
        except OSError as error:
            raise UsageError(f"--port {order.port}: {error.strerror}; choose another") from None
        listener.listen(4096)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        token = phantom.new_token()
        loop = Loop()
        registries = _registries(capabilities, environment, place, notice)
        authority = _authority(capabilities)
        credentials = loader.collect()
        guard.check_keys(capabilities.routes, credentials)
        run = _Run(capabilities, credentials, token, port, registries, authority)
        guard.check_upstream_credential(run.credentials.get(_UPSTREAM_PROXY))
        with Signals() as signals:  # not before: ^C ends the wait for a keystore's dialog
            proxy = _make_proxy(loop, listener.detach(), run, audit)

            def signalled(_: int) -> None:
                if {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & set(signals.take()):
                    proxy.drain(_DRAIN_S, loop.stop)

            signal.signal(signal.SIGTSTP, signal.SIG_DFL)  # there is no child to stop first
            loop.register(signals.fd, READABLE, signalled)
            ca_bundle = f"{place.temporary_directory}/nono-ca-{os.urandom(8).hex()}.pem" if authority else ""
            if authority:
                authority.write_bundle(ca_bundle, environment)
            variables = child_environment(
                {}, network=NETWORK_PROXY, routes=capabilities.routes, proxy_port=port, token=token.decode(),
                ca_bundle=ca_bundle, no_proxy=capabilities.no_proxy,
            )  # fmt: skip
            # It serves already. But whoever reads this line sends at once, and should find warm connections.
            said = False

            def say() -> None:
                nonlocal said
                if not said:
                    said = True
                    ready(port, variables.variables)

            proxy.warm(say)
            loop.call_later(_WARM_S, say)
            try:
                loop.run()
            finally:
                proxy.close()
                if authority:
                    authority.remove_bundle(ca_bundle)
    return 0


def _summary(
    order: Order,
    capabilities: CapabilitySet,
    plan: Plan,
    variables: ChildEnvironment,
    credentials: Mapping[str, Credential],
    environment: Mapping[str, str],
) -> Summary:
    routes = []
    for route in capabilities.routes:
        host = route.upstream.partition("://")[2].partition("/")[0]
        routes.append((route.name, host, credentials[route.name].store if route.name in credentials else ""))
    added = (name for name, value in variables.variables.items() if environment.get(name) != value)
    return Summary(
        argv=order.argv, capabilities=capabilities, grants=plan.grants, routes=tuple(routes),
        withheld=variables.withheld, added_variables=tuple(sorted(added)), notes=plan.notes, wall=plan.wall,
        exposed=variables.exposed,
    )  # fmt: skip


def _profile(path: str | None) -> Profile | None:
    """Return the profile in the file at `path`."""
    if path is None:
        return None
    from nono.policy import profile  # msgspec costs 30 ms: only who names a profile pays

    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PolicyError(f"profile {path}: is not a regular file")
            return profile.parse(file.read(), path)
    except UnicodeDecodeError:
        raise PolicyError(f"profile {path}: it is not valid UTF-8") from None
    except OSError as error:
        raise PolicyError(f"profile {path}: cannot be read: {error.strerror}") from None
