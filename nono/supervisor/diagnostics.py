"""What was denied in a run, put together when it is over.

`Diagnostics` listens where denials show themselves (the terminal that is copied, standard error that is passed on, the
mediator, the kernel's audit records where they can be had) and asks nobody until the end. Then, and only if there is
something, the disk is asked what each path is, and the policy whether it denied it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module

from nono.policy.capabilities import READ, WRITE, CapabilitySet, PathGrant, is_at_or_below
from nono.policy.paths import Place, normalised
from nono.supervisor.complaints import Complaints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.kernel.audit import Reader
    from nono.loop import Loop
    from nono.policy.verdict import Verdict
    from nono.sandbox.plan import Plan
    from nono.supervisor.denials import Attempt, Denial, Found

READ_EVENT = 1  # nono.loop's
_PRIVATE = ("/dev/shm", "/tmp", "/dev", "/proc")


class Diagnostics:
    """Collects what one run was denied. `refusals`: the mediator's, which its threads append."""

    def __init__(self) -> None:
        self.on_terminal = Complaints()
        self.on_stderr = Complaints()
        self.refusals: list[Denial] = []
        self._kernel: Reader | None = None

    def listen(self, kernel: Reader, loop: Loop) -> None:
        """Read the kernel's audit records beside all else."""
        self._kernel = kernel
        loop.register(kernel.fd, READ_EVENT, kernel.read)

    def denials(
        self,
        refused: Iterable[tuple[Mapping[str, object], int]],
        capabilities: CapabilitySet,
        plan: Plan,
        place: Place,
    ) -> tuple[Denial, ...]:
        """Return all denials: paths, then the mediator's, then the proxy's. refused: its (audit.log.AuditLog)."""
        attempts = self._attempts()
        refused = list(refused)
        if not (attempts or self.refusals or refused):
            return ()
        denials = import_module("nono.supervisor.denials")  # what follows is needed by few runs
        policy = Policy(capabilities, plan, place)
        home = os.path.realpath(place.home)
        found = denials.of_paths(attempts, policy.look, policy.judge, policy.absolute, home)
        found += [*self.refusals, *denials.of_exchanges(refused)]
        return tuple(denials.grouped(found, policy.look, policy.judge, home, capabilities.denies))

    def _attempts(self) -> dict[Attempt, int]:
        found: dict[Attempt, int] = {}
        if self._kernel is not None:  # first: it is more than the agent's word
            self._kernel.read()
            attempt_of = import_module("nono.supervisor.denials").Attempt
            for (path, writes), times in self._kernel.records.denied.items():
                found[attempt_of(os.fsdecode(path), WRITE if writes else READ, source="kernel")] = times
        for stream in (self.on_terminal, self.on_stderr):
            stream.finish()
            for line, (before, count) in stream.lines.items():
                for attempt in import_module("nono.supervisor.wording").attempts(line, before):
                    found[attempt] = found.get(attempt, 0) + count
        return found


class Policy:
    """What the disk and the policy of one run say of a path."""

    def __init__(self, capabilities: CapabilitySet, plan: Plan, place: Place) -> None:
        self._verdict = import_module("nono.policy.verdict")
        self._found = import_module("nono.supervisor.denials").Found
        self._place = place
        self._denies = capabilities.denies
        self._grants: list[PathGrant] = []
        for grant in capabilities.grants:
            self._grants.append(grant)
            if (real := os.path.realpath(grant.path)) != grant.path:
                self._grants.append(grant._replace(path=real))
        own = {mount.target for mount in plan.mounts}
        self._private = [path for path in _PRIVATE if path in own]

    def absolute(self, path: str) -> str:
        """Return a path as the agent would find it from its working directory."""
        if path == "~" or path.startswith("~/"):
            path = self._place.home + path[1:]
        return normalised(os.path.join(self._place.workdir, path))

    def look(self, path: str) -> Found:
        """Ask the disk about an absolute path."""
        real = os.path.realpath(path)
        exists = os.path.lexists(real)
        directory = os.path.dirname(real)
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        if exists:
            permitted = READ * os.access(real, os.R_OK) | WRITE * os.access(real, os.W_OK)
        else:
            permitted = WRITE * os.access(directory, os.W_OK)
        private = next((each for each in self._private if is_at_or_below(path, each)), "")
        below = [grant.path for grant in self._grants if is_at_or_below(grant.path, private or "/")]
        if any(is_at_or_below(real, granted) for granted in below):
            private = ""  # it stays where it is
        can_run = os.access(real, os.X_OK)
        found: Found = self._found(real, exists, os.path.isdir(real), permitted, directory, private, can_run)
        return found

    def judge(self, path: str, found: Found, access: int) -> Verdict:
        """Ask the policy about it: what is protected stays so also where the agent has a directory of its own."""
        for private in ("", found.private) if found.private else ("",):
            says: Verdict = self._verdict.judge_path(
                path, found.real, access, self._grants, self._denies, self._place, found.is_directory,
                exists=found.exists, private=private, directory=found.directory,
            )  # fmt: skip
            if says.reason == self._verdict.SENSITIVE_PATH:
                break
        return says
