"""`nono wrap`: the calling process becomes the command, inside the sandbox; nobody stays beside it.

For a command that some other program supervises already. So all is missing that a supervisor does: the proxy with its
credentials and hosts, ports, limits, Unix sockets, a terminal and a /proc of the agent's own, what is denied, or left
unsigned, at the end. What asks for one of these is refused. What remains is what the kernel enforces by itself: a
network that is open or blocked, the paths, the system calls.

The wall is tried by doing, on a process that ends at once: a step that fails halfway could not be taken back here.

Its temporary directory stays when the command ends, because nobody is left to remove it; the next `nono wrap` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from errno import EPERM

from nono.credentials import env
from nono.credentials.loading import Loader
from nono.errors import CommandNotExecutable, KernelError, UsageError
from nono.kernel import landlock, spawn
from nono.kernel.spawn_errors import SpawnError
from nono.policy.capabilities import NETWORK_PROXY, CapabilitySet
from nono.policy.environment import child_environment
from nono.sandbox import filesystem
from nono.sandbox.expansion import Expansion
from nono.sandbox.plan import Plan, make_plan, walls_to_try
from nono.session import own_directories, trust
from nono.session.policy import Order, complete, decide
from nono.session.summary import Summary, summarize
from nono.supervisor import guard
from nono.supervisor.scratch import ScratchDirectory, sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "nono-wrap-"


def wrap(
    order: Order,
    environment: Mapping[str, str],
    tell: Callable[[Summary], None],
    notice: Callable[[str], None],
) -> int:
    """Become the command of `order`; return 0 after a dry run only. tell, notice: as for session.run.

    Raises NonoError when the command must not start.
    """
    decision = decide(order, environment)
    has, place, command = decision.capabilities, decision.place, decision.command
    assert command is not None  # the order names one
    for what in _needs_a_supervisor(has):
        raise UsageError(f"nono wrap has no supervisor beside the command, which {what} needs; use: nono run")
    if decision.inherited is not None and not order.dry_run:
        own_directories.make(has.grants, place)
    guard.check_standard_streams(has.network)
    handed_over = env.hand_over(decision.references.values())
    with ExitStack() as undo:
        trusted = undo.enter_context(trust.verified(decision, order))
        loader = undo.enter_context(Loader(place.state, handed_over, notice=notice))
        if not order.dry_run:
            loader.start(decision.references)
            sweep(place.temporary_directory, _PREFIX)
        prefix = f"{_PREFIX}{os.getpid()}-"
        scratch = undo.enter_context(
            ScratchDirectory(place.temporary_directory, create=not order.dry_run, prefix=prefix)
        )
        capabilities = complete(decision, environment, temporary_directory=scratch.path, denies=trusted.denies)
        expansion = filesystem.expand(capabilities)
        credentials = {} if order.dry_run else loader.collect()
        guard.refuse_keys_in_argv(order.argv, credentials)
        plan = _plan(expansion, capabilities)
        variables = child_environment(
            environment, network=capabilities.network, routes=(), proxy_port=0, token="",
            temporary_directory=scratch.path,
            secret_variables=guard.secret_variables(environment, decision.references.values(), credentials),
            home=place.home, grants=capabilities.grants, rules=capabilities.environment,
            env_credentials=capabilities.env_credentials, workdir=place.workdir,
        )  # fmt: skip
        summary = summarize(order, decision, capabilities, plan, variables, credentials, environment)
        tell(summary._replace(trust=trusted.rows))
        if order.dry_run:
            return 0
        secrets = guard.env_credentials(capabilities.env_credentials, credentials)
        ruleset = filesystem.open_ruleset(plan)
        trusted.recheck()
        try:
            spawn.wrap(
                namespaces=plan.namespaces,
                path=os.fsencode(command.path),
                argv=[os.fsencode(argument) for argument in order.argv],
                envp=[*(os.fsencode(f"{name}={value}") for name, value in variables.variables.items()), *secrets],
                workdir=os.fsencode(place.workdir),
                ruleset_fd=ruleset,
                seccomp_filter=plan.seccomp_filter,
            )
        except SpawnError as error:
            raise CommandNotExecutable(str(error)) if error.step == "exec" else error from None


def _needs_a_supervisor(has: CapabilitySet) -> Iterator[str]:
    """Yield what is asked for that a supervisor does, in the words of the flags."""
    asked = {
        "the proxy (--credential, --allow-domain, --network-profile)": has.network == NETWORK_PROXY,
        "--open-port": has.open_ports,
        "--listen-port": has.listen_ports,
        "--allow-unix-socket": has.unix_sockets or has.own_sockets,
        "a limit (--memory, --max-processes, --timeout)": any(has.limits),
    }
    yield from (what for what, is_asked in asked.items() if is_asked)


def _plan(expansion: Expansion, capabilities: CapabilitySet) -> Plan:
    """Return the plan of the strongest wall that is to be had without mounts and without a mediator."""
    missing: list[KernelError] = []
    for wall in walls_to_try(capabilities.sandbox):
        if wall.mounts:
            continue
        plan = make_plan(expansion, landlock.abi(), os.uname().machine, wall, workdir=capabilities.workdir)
        if plan.judged:
            continue
        try:
            with spawn.prepare(namespaces=plan.namespaces):
                note = f"no namespaces. {missing[0]}" if missing else ""
                return plan._replace(notes=(*plan.notes, *((note,) if note else ())))
        except SpawnError as error:
            missing.append(error)
    if missing:
        raise missing[0]
    raise KernelError(
        "seccomp", EPERM, f"--sandbox {capabilities.sandbox} needs a supervisor beside the command: use nono run"
    )
