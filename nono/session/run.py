"""One run, from its order to its exit status: the only place where the rooms are put together.

Read it top to bottom; the order is the point. Everything that can be refused is refused before the child exists (P7):
the files that instruct the agent are verified (P11; trust.py), the credentials are in locked memory, and the keystore's
connection is gone, before the agent is started (P1). The wall is put up first, around nothing, so that the summary can
say which one it is. What only the proxy needs (ssl, h11, the loop) is imported while the child starts, because that is
what a user waits for; so this room, and only this one, imports inside functions. A request that the child makes before
the proxy serves waits in the listener's backlog, which is there since the wall is.

Each room is entered once and left once (context managers): the temporary directory, the limits, the wall, the audit
log, the signals, the credentials. However the run ends, nothing that it started is left running and no key is left in
memory.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from time import time

from nono.audit import facts
from nono.audit.log import AuditLog
from nono.credentials import env, phantom
from nono.credentials.loading import Loader
from nono.errors import CommandNotExecutable, Refusal
from nono.kernel import landlock, process
from nono.kernel.spawn import Child
from nono.kernel.spawn_errors import SpawnError
from nono.policy.capabilities import NETWORK_PROXY, CapabilitySet
from nono.policy.environment import child_environment
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan
from nono.session import audit_key, own_directories, trust
from nono.session.parts import (
    UPSTREAM_PROXY,
    Access,
    Parts,
    authority_of,
    make_proxy,
    recorder,
    registries_of,
    settings_for_managers,
)
from nono.session.policy import Decision, complete, decide
from nono.session.policy import Order as Order
from nono.session.policy_file import Left, PolicyFile
from nono.session.stores import destinations
from nono.session.summary import Summary, summarize
from nono.supervisor import guard, wall
from nono.supervisor.error_output import ErrorOutput, can_be_passed_on
from nono.supervisor.job import Job, Signals, children, kill_descendants
from nono.supervisor.scratch import ScratchDirectory
from nono.supervisor.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from nono.kernel.audit import Reader
    from nono.loop import Loop
    from nono.proxy.server import Exchange
    from nono.sandbox.expansion import Expansion
    from nono.session.learn import Learner
    from nono.session.rollback import Tracker
    from nono.supervisor.denials import Denial
    from nono.supervisor.diagnostics import Diagnostics
    from nono.supervisor.limits import Limiter
    from nono.supervisor.mediator import Mediator
    from nono.supervisor.relay import Relays

_DELIVERY_S = 0.5  # how long relays deliver what the child sent before it ended
_STANDARD = (0, 1, 2)
_SPARE_BYTES = 1 << 18
_TIMED_OUT, _KILLED = 124, 128  # exit statuses: of timeout(1); above the other are those of signals
_ENDING = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM))


def run(
    order: Order,
    environment: Mapping[str, str],
    tell: Callable[[Summary], None],
    notice: Callable[[str], None],
    view: Callable[[Sequence[Exchange]], None] | None = None,
    footer: Callable[[Sequence[Denial]], None] | None = None,
    learner: Learner | None = None,
    tracker: Tracker | None = None,
) -> int:
    """Carry out `order`; return the child's exit status.

    tell: called once, before the child starts. notice: called with a sentence for the user, e.g. that the keystore
    waits for his answer. view: called now and then, with the exchanges that have ended since.
    footer: called at the end, with all that was denied; None: nobody asks, so the agent's output is not looked at.
    learner: opens more to the child, and records what it uses (session/learn.py). tracker: takes the snapshots that the
    run can be undone with (session/rollback.py).
    Raises NonoError when the child must not start, or when the run broke down; then nothing of it is left running.
    """
    decision = decide(order, environment)
    if decision.inherited is not None and not order.dry_run:
        own_directories.make(decision.capabilities.grants, decision.place)
    place, command, capabilities, references = (
        decision.place, decision.command, decision.capabilities, decision.references,
    )  # fmt: skip
    assert command is not None  # the order names one
    guard.check_standard_streams(capabilities.network)
    handed_over = env.hand_over(references.values())  # with an env:// source: starts nono anew, without the variable
    with ExitStack() as undo:
        trusted = undo.enter_context(trust.verified(decision, order))
        loader = undo.enter_context(Loader(place.state, handed_over, notice=notice))
        if not order.dry_run:
            loader.start(references)
        limiter = _limiter(capabilities)
        if limiter is not None:
            undo.enter_context(limiter)
        scratch = undo.enter_context(ScratchDirectory(place.temporary_directory, create=True))
        told = undo.enter_context(PolicyFile(scratch.path))
        terminal = undo.enter_context(Terminal())
        inherited = [fd for fd in _STANDARD if terminal.spec is None or fd not in terminal.spec.descriptors]
        capabilities = complete(
            decision,
            environment,
            temporary_directory=scratch.path,
            inherited=inherited,
            denies=(*trusted.denies, *(limiter.denies if limiter is not None else ())),
        )
        granted = capabilities if learner is None else learner.widened(decision, capabilities)
        expansion = filesystem.expand(granted, mounts=True)
        authority = authority_of(capabilities)
        ca_bundle = os.path.join(scratch.path, "ca-bundle.pem") if authority else ""
        if authority and not order.dry_run:
            authority.write_bundle(ca_bundle, environment)
        credentials = {} if order.dry_run else loader.collect()
        guard.check_upstream_credential(credentials.get(UPSTREAM_PROXY))
        token = phantom.new_token()
        guard.check_keys(capabilities.routes, credentials)
        guard.refuse_keys_in_argv(order.argv, credentials)
        path = os.fsencode(command.path)
        standing = wall.put_up(
            expansion,
            granted,
            temporary_directory=scratch.path,
            proxy_port=order.proxy_port,
            terminal=terminal.spec,
            recorded=None if learner is None else learner.recorded(path),
        )
        plan, expansion = standing.plan, standing.expansion
        undo.enter_context(standing.prepared)
        rlimits, limits = _limits(limiter, own_user_namespace=bool(plan.namespaces))
        proxy = Access(standing.port, token.decode(), scratch.path)
        settings = {} if order.dry_run else settings_for_managers(capabilities, environment, place, proxy)
        settings = {**settings, **told.variables}
        variables = child_environment(
            environment,
            network=capabilities.network,
            routes=capabilities.routes,
            proxy_port=proxy.port,
            token=proxy.token,
            temporary_directory=scratch.path,
            secret_variables=guard.secret_variables(environment, references.values(), credentials),
            ca_bundle=ca_bundle,
            no_proxy=capabilities.no_proxy,
            home=place.home,
            grants=capabilities.grants,
            settings=settings,
            rules=capabilities.environment,
            env_credentials=capabilities.env_credentials,
            unix_sockets=capabilities.unix_sockets,
            workdir=place.workdir,
        )
        summary = summarize(order, decision, capabilities, plan, variables, credentials, environment)
        tell(summary._replace(intercepts=authority is not None, limits=limits, trust=trusted.rows))
        if order.dry_run:
            return 0
        registries = registries_of(capabilities, environment, place, notice)
        parts = Parts(capabilities, credentials, token, standing.port, registries, authority)
        signer = audit_key.signer(order.audit_sign_key, credentials)
        audit = undo.enter_context(AuditLog(place.state, notice, view, order.name, signer))
        lineage = decision.inherited.lineage if decision.inherited is not None else ()
        audit.hide(guard.exposed_keys(capabilities.env_credentials, credentials))
        audit.begin(facts.start_of(order.argv, order.name, capabilities, plan.grants, lineage, plan.text))
        trusted.record(audit)
        if tracker is not None:
            undo.callback(tracker.close)
            tracker.begin(audit.session, order.argv, decision, capabilities, plan.grants)
            _record_snapshot("baseline", tracker, audit)
        signals = undo.enter_context(Signals())
        strangers = children() - {standing.prepared.pid}  # of whoever became nono by exec
        process.set_child_subreaper()
        relayed = wall.has_own_network(plan, capabilities.network)
        host_listeners = _listen_on_host(capabilities.listen_ports) if relayed else {}
        errors = ErrorOutput() if footer is not None and can_be_passed_on() else None
        kernel = _kernel_records() if footer is not None else None
        if kernel is not None:
            undo.callback(kernel.close)
        stores = (place.state, *destinations(place)[1:])
        status, spare = 1, [bytes(_SPARE_BYTES)]
        try:
            ruleset = filesystem.open_ruleset(plan)
            lent = ExitStack()
            if errors is not None:
                lent.enter_context(errors)
            try:
                trusted.recheck()
                child = standing.prepared.start(
                    path=path,
                    argv=[os.fsencode(argument) for argument in order.argv],
                    envp=[
                        *(os.fsencode(f"{name}={value}") for name, value in variables.variables.items()),
                        *guard.env_credentials(capabilities.env_credentials, credentials),
                    ],
                    workdir=os.fsencode(place.workdir),
                    ruleset_fd=ruleset,
                    seccomp_filter=plan.seccomp_filter,
                    filter_flags=plan.filter_flags,
                    late_rules=plan.late_rules,
                    terminal_access=plan.terminal_access,
                    procs_fds=limiter.procs_fds if limiter is not None else (),
                    rlimits=rlimits,
                    log_as=kernel.comm if kernel is not None else "",
                )
            finally:
                lent.close()
                os.close(ruleset)
                trusted.release()
            trusted.is_running = True
            if tracker is not None:
                tracker.is_running = True
            behind = _Behind(
                plan, expansion, child, host_listeners, limiter, errors, kernel, footer is not None, learner
            )
            started = partial(_tell_agent, told, decision, capabilities, expansion, plan, scratch.path)
            status, diagnostics = _supervise(parts, behind, terminal, signals, audit, notice, started)
        except SpawnError as error:
            raise CommandNotExecutable(str(error)) if error.step == "exec" else error from None
        finally:
            terminal.close()
            for listener in host_listeners.values():
                listener.close()
            spare.clear()  # what the end needs, where memory has run out
            kill_descendants(strangers)
            if errors is not None:
                is_ended = status > _KILLED or status == _TIMED_OUT
                errors.finish(lambda: is_ended or not _ENDING.isdisjoint(signals.take()))
            guard.close_stores(stores, whole=not plan.mounts)  # with mounts all of it was read-only, or covered
            if learner is not None:
                learner.ended(plan, expansion, scratch.path)
            trusted.look_again(audit, notice)
            if tracker is not None:
                tracker.end()
                _record_snapshot("final", tracker, audit)
        audit.ended(status)
        if footer is not None:
            denied = diagnostics.denials(audit.refused, capabilities, plan, place)
            audit.write_denials(denied)
            footer(denied)
        return status


class _Behind(Record):
    """What is behind the wall, and leads there.

    host_listeners: by port. errors: what passes its standard error on. kernel: its records of
    denials. watched: somebody asks what was denied.
    """

    plan: Plan
    expansion: Expansion
    child: Child
    host_listeners: Mapping[int, _socket.socket]
    limiter: Limiter | None
    errors: ErrorOutput | None
    kernel: Reader | None
    watched: bool
    learner: Learner | None


def _tell_agent(
    file: PolicyFile,
    decision: Decision,
    capabilities: CapabilitySet,
    expansion: Expansion,
    plan: Plan,
    temporary_directory: str,
) -> None:
    """Let the agent know what it may do: for nono why --self."""
    from nono.sandbox.reach import reach_of

    origins = decision.inherited.origins if decision.inherited is not None else {}
    private = reach_of(plan, temporary_directory).private
    known = capabilities._replace(grants=expansion.grants)
    file.write(Left(decision.place, known, private, plan.text, origins))


def _kernel_records() -> Reader | None:
    """Return what reads the kernel's own records of denials; None for nearly everybody: see kernel/audit.py."""
    if landlock.abi() < landlock.LOGGING_ABI or not process.has_capability(process.CAP_AUDIT_READ):
        return None
    from nono.kernel import audit

    return audit.open_reader(audit.new_comm())


def _limiter(capabilities: CapabilitySet) -> Limiter | None:
    """Return what enforces the limits, None where there are none."""
    if not any(capabilities.limits):
        return None
    from nono.supervisor.limits import Limiter

    return Limiter(capabilities.limits)


def _limits(
    limiter: Limiter | None, *, own_user_namespace: bool
) -> tuple[tuple[tuple[int, int, int], ...], tuple[str, ...]]:
    """Return the agent's resource limits, and what is said of all limits. Raises UsageError."""
    if limiter is None:
        return (), ()
    rlimits = limiter.rlimits(own_user_namespace=own_user_namespace)
    return rlimits, limiter.sentences(own_user_namespace=own_user_namespace)


def _listen_on_host(listen_ports: Sequence[int]) -> dict[int, _socket.socket]:
    """Return a listening socket of this machine for each port."""
    if not listen_ports:
        return {}
    from nono.supervisor import ports

    return ports.listen_on_host(listen_ports)


def _supervise(
    parts: Parts,
    behind: _Behind,
    terminal: Terminal,
    signals: Signals,
    audit: AuditLog,
    notice: Callable[[str], None],
    started: Callable[[], None],
) -> tuple[int, Diagnostics]:
    """Serve the child until it exits; return its exit status, and what tells of denials.

    Late imports: the child is starting meanwhile.
    """
    from nono.loop import READ as READABLE
    from nono.loop import Loop
    from nono.supervisor.diagnostics import Diagnostics

    gc.freeze()  # what is there by now stays; to look through it costs more than 1 ms
    gc.enable()  # see __main__.py
    audit.sync_beside()
    diagnostics = Diagnostics()
    if behind.watched:
        terminal.watch = diagnostics.on_terminal.feed
    child, capabilities = behind.child, parts.capabilities
    statuses: list[int] = []
    loop = Loop()
    if behind.errors is not None:
        behind.errors.serve(diagnostics.on_stderr.feed, loop)
    if behind.kernel is not None:
        diagnostics.listen(behind.kernel, loop)

    def ended(status: int) -> None:
        statuses.append(status)
        loop.stop()

    job = Job(child, terminal, ended)
    terminal.attach(loop, child.terminal_fd)
    job.attach(loop)
    loop.register(signals.fd, READABLE, lambda _: job.handle(signals.take()))
    mediator = _mediator(parts, behind, diagnostics.refusals.append)
    is_proxied = capabilities.network == NETWORK_PROXY
    is_relayed = wall.has_own_network(behind.plan, capabilities.network) and bool(
        capabilities.open_ports or capabilities.listen_ports
    )
    deadline = None
    if capabilities.limits.timeout_s:
        from nono.supervisor.limits import Deadline

        deadline = Deadline(loop, capabilities.limits.timeout_s, job.send, job.kill, notice)
    proxy = relays = None
    try:
        if is_proxied or is_relayed:
            for library in ("ssl", "h11"):  # 45 ms; a command that has already ended is not kept waiting for them
                job.handle(signals.take())
                job.handle_event()
                if statuses and not is_relayed:
                    break
                import_module(library)
            else:
                if is_proxied:
                    admits = mediator.admits if mediator is not None else None
                    proxy = make_proxy(loop, child.listener_fds[0], parts, audit, admits)
                    proxy.warm()
                if is_relayed:
                    relays = _make_relays(loop, behind, parts, audit)
        if not statuses:
            started()
            loop.run()
        if deadline is not None:
            deadline.cancel()
        if relays is not None:
            relays.drain(_DELIVERY_S, loop.stop)
            loop.run()
    finally:
        terminal.close()
        for served in (relays, proxy, mediator):
            if served is not None:
                served.close()
        os.close(child.control_fd)
        _record(diagnostics.refusals, audit)
        if behind.learner is not None:
            behind.learner.refusals += diagnostics.refusals
    for sentence in behind.limiter.outcome() if behind.limiter is not None else ():
        notice(sentence)
    return (deadline.exit_status(statuses[0]) if deadline is not None else statuses[0]), diagnostics


def _mediator(parts: Parts, behind: _Behind, refused: Callable[[Denial], None]) -> Mediator | None:
    """Return what performs the calls that the filter makes wait, None where it makes none. refused: see Mediator."""
    if behind.child.notify_fd < 0:
        return None
    from nono.supervisor.mediation import mediate

    recorder = behind.learner.recorder if behind.learner is not None else None
    return mediate(
        behind.child.notify_fd, behind.plan, behind.expansion, parts.capabilities, parts.port, refused, recorder
    )


def _record_snapshot(when: str, tracker: Tracker, audit: AuditLog) -> None:
    """Write into the audit log which state of the files was found, by the hash over all of it."""
    if len(tracker.taken) == ("baseline", "final").index(when) + 1:
        taken = tracker.taken[-1]
        audit.write("snapshot", {"time": time(), "when": when, "root": taken.root, "files": taken.files})
        audit.flush()


def _record(refusals: Sequence[Denial], audit: AuditLog) -> None:
    """Write what the mediator refused into the audit log: a sentence each, and the flag that would grant it."""
    if not refusals:
        return
    from nono.proxy.server import Exchange

    for refusal in refusals:
        text = f"{refusal.detail} was refused."
        error = Refusal(0, refusal.reason, text[:1].upper() + text[1:], refusal.flag)
        exchange = Exchange(time(), "", "", "", "", "", "refused", 0, error.code, 0, 0, 0.0, str(error), error.flag)
        audit.append(Exchange._fields, exchange)


def _make_relays(loop: Loop, behind: _Behind, parts: Parts, audit: AuditLog) -> Relays:
    """Return the relays of this run, serving the child's listeners but the proxy's, and those of the host."""
    from nono.supervisor.relay import Relays

    process.raise_open_files_limit()
    relays = Relays(loop, behind.child.network_fd, recorder(loop, audit))
    opened = parts.capabilities.open_ports
    for port, listener_fd in zip(opened, behind.child.listener_fds[-len(opened) :], strict=True) if opened else ():
        relays.open_port(port, listener_fd)
    for port, listener in behind.host_listeners.items():
        relays.listen_port(port, listener.detach())
    return relays
