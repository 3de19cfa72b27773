"""The managers are asked beside the run: the loop gets their hosts, the cache keeps them, nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import time
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.loop import Loop
from nono.registries import cache
from nono.registries.group import Group
from nono.registries.helper import ask_all
from nono.registries.refresh import Refresh
from tests.registries.conftest import Machine

GO = "print(json.dumps({'GOPROXY': 'https://modules.example', 'GOSUMDB': 'off'}))"
TIMEOUT_S = 30


def group(machine: Machine) -> Group:
    return Group(machine.environment, machine.place, machine.grants, machine.denies)


def refresh(machine: Machine) -> list[str]:
    """Run the loop until the helper has ended; return the hosts that arrived."""
    loop, added = Loop(), list[str]()
    running = Refresh(loop, added.extend, lambda: None)
    running.start(group(machine))

    def look() -> None:
        if running._answer_fd >= 0:
            loop.call_later(0.02, look)
        else:
            loop.stop()

    look()
    loop.run()
    running.close()
    loop.close()
    reap()
    return added


def reap() -> None:
    """Wait for the helper, as the job of a run does."""
    os.waitpid(-1, 0)


def test_hosts_arrive_in_the_loop_and_are_known_next_time(machine: Machine) -> None:
    machine.program("go", GO)
    before = group(machine)
    assert (before.hosts, machine.names(before.stale)) == ((), ["go"])
    (note,) = before.notes
    assert note.startswith(
        "package_registries: asking go where packages come from, in the background; until they answer"
    )
    assert refresh(machine) == ["modules.example"]
    after = group(machine)
    assert (after.hosts, after.stale, after.notes) == (("modules.example",), [], [])
    assert sorted(os.listdir(machine.state)) == ["registries.json", "registries.lock"]


def test_an_answer_holds_until_what_was_obeyed_changes(machine: Machine) -> None:
    machine.program("go", GO)
    ask_all(group(machine).stale, str(machine.state), ())
    machine.file(".config/go/env", "GOPROXY=https://other.example")
    changed = group(machine)
    assert (changed.hosts, machine.names(changed.stale)) == ((), ["go"])


def test_a_stale_answer_is_good_until_the_new_one_comes(machine: Machine) -> None:
    machine.program("go", GO)
    old = cache.Answer((cache.Host("old.example", ""),), True, time.time() - cache.KEEP_S)
    cache.store(str(machine.state), {machine.tool("go").key: old})
    stale = group(machine)
    assert (stale.hosts, machine.names(stale.stale), stale.notes) == (("old.example",), ["go"], [])
    ask_all(stale.stale, str(machine.state), ())
    assert group(machine).hosts == ("modules.example",)


def test_an_answer_with_gaps_takes_nothing_away(machine: Machine) -> None:
    machine.program("go", "sys.exit(1)")
    old = cache.Answer((cache.Host("old.example", ""),), True, time.time() - cache.KEEP_S)
    cache.store(str(machine.state), {machine.tool("go").key: old})
    ask_all(group(machine).stale, str(machine.state), ())
    now = group(machine)
    assert (now.hosts, now.stale) == (("old.example",), [])


def test_what_is_known_of_a_manager_that_the_agent_could_steer_is_not_used(machine: Machine) -> None:
    machine.program("go", GO)
    ask_all(group(machine).stale, str(machine.state), ())
    (machine.home / ".config").symlink_to(machine.work)
    steered = group(machine)
    assert (steered.hosts, steered.stale) == ((), [])
    (note,) = steered.notes
    assert "go is left out, because the agent may write" in note
    assert "--allow-domain" in note


def test_one_asks_at_a_time_and_the_next_one_learns_from_it(machine: Machine) -> None:
    machine.program("go", GO.replace("modules", "modules{time.time_ns()}").replace("'https", "f'https"))
    stale = group(machine).stale
    first = ask_all(stale, str(machine.state), ())
    assert ask_all(stale, str(machine.state), ()) == first
    assert [len(answer.hosts) for answer in first.values()] == [1]


def test_the_helper_ends_with_the_supervisor_and_takes_its_programs_along(machine: Machine) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(TIMEOUT_S)
    address = listener.getsockname()
    machine.program("go", f"socket.create_connection({address}).send(str(os.getpid()).encode()); time.sleep(60)")
    loop = Loop()
    running = Refresh(loop, lambda hosts: None, lambda: None)
    running.start(group(machine))
    connection, _ = listener.accept()
    with listener, connection:
        pidfd = os.pidfd_open(int(connection.recv(100)))
    running.close()
    loop.close()
    assert select.select([pidfd], [], [], TIMEOUT_S)[0]
    reap()
    os.close(pidfd)


def test_what_a_program_leaves_behind_ends_with_the_helper(machine: Machine) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(TIMEOUT_S)
    stray = f"""
if os.fork() == 0:
    os.setsid()
    os.fork()
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    connection = socket.create_connection({listener.getsockname()})
    time.sleep(60)
time.sleep(0.2)
"""
    machine.program("go", stray + GO)
    assert refresh(machine) == ["modules.example"]
    with listener:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                assert connection.recv(1) == b""  # both processes have ended


def test_a_run_without_a_helper_goes_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.program("go", GO)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = len(os.listdir("/proc/self/fd"))
    loop = Loop()
    running = Refresh(loop, lambda hosts: None, lambda: None)
    running.start(group(machine))
    running.close()
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_state_directory_that_cannot_be_written_is_no_harm(machine: Machine, tmp_path: Path) -> None:
    machine.program("go", GO)
    machine.file(".local/state", "not a directory")
    with pytest.raises(StoreError, match=str(machine.state)):
        ask_all(group(machine).stale, str(machine.state), ())
    loop = Loop()
    running = Refresh(loop, lambda hosts: None, lambda: None)
    running.start(group(machine))
    loop.call_later(0.0, loop.stop)
    loop.run()
    reap()
    running.close()
    loop.close()


def test_lines_that_no_helper_writes_are_passed_over() -> None:
    loop, added = Loop(), list[str]()
    running = Refresh(loop, added.extend, lambda: None)
    running._answer_fd, write_fd = os.pipe()
    loop.register(running._answer_fd, 1, running._readable)
    os.write(write_fd, b'null\n{"\n\xff\n["a.example"]\n["b.exa')
    os.write(write_fd, b'mple"]\n')
    os.close(write_fd)
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert added == ["a.example", "b.example"]
    assert running._answer_fd == -1
    loop.close()


def test_a_second_helper_waits_for_the_first(machine: Machine) -> None:
    machine.program("go", GO)
    machine.state.mkdir(parents=True)
    with open(machine.state / "registries.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        loop = Loop()
        running = Refresh(loop, lambda hosts: None, lambda: None)
        running.start(group(machine))
        running.close()  # it ends while it waits
        reap()
        loop.close()
    assert not os.path.exists(cache.path(str(machine.state)))
