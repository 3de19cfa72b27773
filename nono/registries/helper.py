"""The helper process: asks the managers that it is told of, one after the other, and stores what they answer.

Standard input brings one line, the request; when it ends, the supervisor is gone or wants no more, and the helper ends
every program that it runs and itself. Standard output takes a line for each answer: its hosts as JSON. One helper asks
at a time (a lock in the state directory); what another has learnt meanwhile is not asked for again.

Each manager is asked by a thread of its own, which has entered a Landlock domain (domain.py; Landlock is per thread).
The main thread stays outside, because it writes the cache.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from nono.errors import NonoError, StoreError
from nono.kernel import process
from nono.registries import cache, domain
from nono.registries.ask import Program, ask
from nono.registries.cache import Answer
from nono.registries.managers import MANAGERS, Manager, Tool
from nono.sandbox.expansion import Expansion

_NICENESS = 10  # the child is starting
_GENERATIONS = 100
_LOCK_S = 90.0  # six managers, two or three programs each, which rarely take all of their time


def main() -> None:
    """Serve the one request on standard input."""
    os.nice(_NICENESS)
    process.set_child_subreaper()
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    managers: dict[str, Manager] = {manager.name: manager for manager in MANAGERS}
    tools = [
        Tool(managers[name], path, environment, tuple(settings), key, "")
        for name, path, environment, settings, key in request["tools"]
    ]

    def tell(answer: Answer) -> None:
        print(json.dumps([host.entry for host in answer.hosts]), flush=True)

    try:
        ask_all(tools, request["state"], request["closed"], tell)
    except NonoError:
        pass  # nothing more is asked, and the run goes on; `nono profile groups` says why
    finally:
        _kill_descendants()


def ask_all(
    tools: Iterable[Tool], state: str, closed: Sequence[str], tell: Callable[[Answer], None] = lambda answer: None
) -> dict[str, Answer]:
    """Ask each tool that nobody else has asked since; store each answer and tell it. Returns them by key.

    closed: the paths that the tools cannot touch. Raises PolicyError or KernelError when they cannot be confined.
    """
    answers: dict[str, Answer] = {}
    outside = domain.around(closed)
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(state, "registries.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{state} cannot be written ({error.strerror}); make it a directory of yours") from error
    scratch = os.path.join(state, "registries.scratch")
    try:
        _lock(lock)
        for tool in tools:
            known = cache.load(state).get(tool.key)
            if known is None or known.is_stale(time.time()):
                shutil.rmtree(scratch, ignore_errors=True)  # also what one that was killed has left
                os.mkdir(scratch, 0o700)
                said = _ask_confined(tool, scratch, outside, closed)
                known = _better(said, known)
                cache.store(state, {tool.key: known})
            answers[tool.key] = known
            tell(known)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)
    return answers


def _ask_confined(tool: Tool, scratch: str, outside: Expansion, closed: Sequence[str]) -> Answer:
    def confined() -> Answer:
        domain.enter(outside, tool.settings, closed, scratch)
        return ask(tool, scratch)

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(confined).result()
        except KeyboardInterrupt:
            Program.stop_all()
            raise


def _lock(fd: int) -> None:
    """Take the lock. Raises StoreError when another one asks for longer than all managers may take."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError("another nono is asking the package managers and does not come to an end") from None
            time.sleep(0.05)


def _kill_descendants() -> None:
    """End what the programs have left behind in sessions of their own; needs process.set_child_subreaper() before."""
    for _ in range(_GENERATIONS):
        children = [int(word) for path in glob("/proc/self/task/*/children") for word in _words(path)]
        if not children:
            return
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)  # its own children are ours then
            except OSError:
                pass  # another thread has waited for it


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def _better(new: Answer, old: Answer | None) -> Answer:
    """Return the new answer; with the hosts of an old one, which was good, while the new one is not whole."""
    if old is None or new.whole:
        return new
    return cache.answer((*old.hosts, *new.hosts), whole=False)


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    Program.stop_all()
    _kill_descendants()
    os._exit(0)
