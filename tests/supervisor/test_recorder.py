"""A program behind the real filter, whose paths are recorded and whose calls go on."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.policy.capabilities import NETWORK_PROXY, READ, WRITE
from nono.policy.learned import ENTRY, EXECUTE, MAKE, MKDIR
from nono.sandbox import bpf
from nono.sandbox.recorded import PATH_CALLS, RECORDED, wanted
from nono.sandbox.syscalls import AUDIT_ARCH, number
from nono.supervisor.mediator import HOST_PORTS, OWN_NETWORK, Rules
from nono.supervisor.recorder import Recorder
from tests.supervisor.mediated import LIBC, answer_of, confined

RULES = Rules(OWN_NETWORK)


def record(work: Callable[[], Any], recorder: Recorder | None = None, rules: Rules = RULES) -> tuple[Any, Recorder]:
    """Run `work` in a child; return its result, and the recorder."""
    recorder = recorder or Recorder()
    with confined(work, rules, recorder=recorder) as child:
        result = child.result()
    recorder.drain()
    return result, recorder


def accesses(work: Callable[[], Any], below: Path) -> dict[str, int]:
    """What was wanted below a directory."""
    found = record(work)[1].accesses.items()
    return {
        os.fsdecode(path).removeprefix(f"{below}/"): access
        for path, access in found
        if path.startswith(os.fsencode(below))
    }


def syscall(name: str, *arguments: Any) -> int:
    nr = number(name, os.uname().machine)
    if nr is None:
        pytest.skip(f"this machine has no {name}")
    values = [argument if isinstance(argument, bytes) else ctypes.c_long(argument) for argument in arguments]
    return int(LIBC.syscall(ctypes.c_long(nr), *values))


def test_opens_go_on_and_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")

    def work() -> str:
        with open(tmp_path / "new", "w"):
            pass
        with open(tmp_path / "a", "r+") as file:
            text = file.read()
        assert answer_of(lambda: os.open(tmp_path / "missing", os.O_RDONLY)) == errno.ENOENT
        os.close(os.open(tmp_path / "a", os.O_PATH))
        os.listdir(tmp_path)
        return text

    recorder = Recorder()
    text, _ = record(work, recorder)
    assert text == "text"
    found = {os.path.basename(os.fsdecode(path)): a for path, a in recorder.accesses.items() if b"pytest" in path}
    assert found["new"] == WRITE | MAKE
    assert found["a"] == READ | WRITE
    assert found["missing"] == READ
    assert found[tmp_path.name] == READ


def test_paths_are_taken_from_where_they_begin(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    (tmp_path / "in" / "b").touch()

    def work() -> None:
        directory = os.open(tmp_path / "in", os.O_RDONLY)
        os.close(os.open("a", os.O_RDONLY, dir_fd=directory))
        os.chdir(tmp_path)
        os.close(os.open("in/b", os.O_RDONLY))
        os.close(os.open("./in/../in/b", os.O_RDONLY))
        os.close(directory)

    found = accesses(work, tmp_path)
    assert found["in/a"] == READ
    assert found["in/b"] == READ
    assert found["./in/../in/b"] == READ


def test_changes_of_names_are_recorded_on_both_sides(tmp_path: Path) -> None:
    def work() -> None:
        os.mkdir(tmp_path / "d")
        (tmp_path / "a").touch()
        os.rename(tmp_path / "a", tmp_path / "b")
        os.link(tmp_path / "b", tmp_path / "c")
        os.symlink("anything", tmp_path / "l")
        os.unlink(tmp_path / "c")
        os.rmdir(tmp_path / "d")
        os.truncate(tmp_path / "b", 1)
        os.chmod(tmp_path / "b", 0o600)

    found = accesses(work, tmp_path)
    assert found["d"] == ENTRY | MKDIR
    assert found["a"] & ENTRY
    assert found["b"] == ENTRY | WRITE
    assert found["c"] == ENTRY
    assert found["l"] == ENTRY
    assert "anything" not in found


def test_executing_is_recorded(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec /bin/true\n")
    script.chmod(0o755)
    found = record(lambda: subprocess.run([script], check=True).returncode)[1].accesses
    assert found[os.fsencode(script)] & EXECUTE
    assert found[b"/bin/true"] & EXECUTE


def test_calls_by_an_open_file_alone_are_executions_of_it(tmp_path: Path) -> None:
    def work() -> int:
        pid = os.fork()
        if pid == 0:
            fd = os.open("/bin/true", os.O_RDONLY)
            os.execve(fd, ["true"], {})
        return os.waitpid(pid, 0)[1]

    status, recorder = record(work)
    assert status == 0
    assert recorder.accesses[os.fsencode(os.path.realpath("/bin/true"))] & EXECUTE


def test_a_bad_pointer_fails_as_ever_and_is_counted() -> None:
    def work() -> list[int]:
        ctypes.set_errno(0)
        answers = []
        for address in (1, 0, (1 << 47) - 4096):
            assert syscall("openat", -100, address, 0) == -1
            answers.append(ctypes.get_errno())
        return answers

    answers, recorder = record(work)
    assert answers == [errno.EFAULT] * 3
    assert recorder.unread == 3


def test_a_path_at_the_end_of_what_is_mapped_is_read(tmp_path: Path) -> None:
    (tmp_path / "edge").touch()

    def work() -> int:
        import mmap

        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        path = os.fsencode(tmp_path / "edge") + b"\0"
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        memory[mmap.PAGESIZE - len(path) : mmap.PAGESIZE] = path
        LIBC.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 0)
        first = syscall("openat", -100, address + mmap.PAGESIZE - len(path), 0)
        across = address + mmap.PAGESIZE - 4
        LIBC.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 3)
        memory[mmap.PAGESIZE - 4 : mmap.PAGESIZE - 4 + 9] = b"/across/x"[:9]
        syscall("openat", -100, across, 0)
        return first

    fd, recorder = record(work)
    assert fd >= 0
    assert os.fsencode(tmp_path / "edge") in recorder.accesses
    assert b"/across/x" in recorder.accesses


def test_long_paths_are_read_whole() -> None:
    path = "/" + "/".join(["x" * 200] * 20)
    too_long = path + "/y" * 200

    def work() -> list[int]:
        return [answer_of(lambda each=each: os.open(each, os.O_RDONLY)) for each in (path, too_long)]  # type: ignore[misc]

    answers, recorder = record(work)
    assert answers == [errno.ENOENT, errno.ENAMETOOLONG]
    assert recorder.accesses[path.encode()] == READ
    assert recorder.unread == 1


def test_what_is_asked_for_again_costs_no_place() -> None:
    def work() -> None:
        for _ in range(5000):
            answer_of(lambda: os.open("/nonexistent/again", os.O_RDONLY))

    _, recorder = record(work)
    assert recorder.recording.received >= 5000
    assert recorder.accesses[b"/nonexistent/again"] == READ


def test_a_full_buffer_is_emptied_while_the_program_waits() -> None:
    """More than a MiB of names, by four threads and by forked children."""

    def names(who: int) -> None:
        for index in range(2500):
            answer_of(lambda index=index: os.open(f"/nonexistent/{who}/{index}/{'x' * 150}", os.O_RDONLY))  # type: ignore[misc]

    def work() -> int:
        threads = [threading.Thread(target=names, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        pids = []
        for who in range(4, 6):
            pids.append(pid := os.fork())
            if pid == 0:
                names(who)
                os._exit(0)
        for thread in threads:
            thread.join()
        return sum(os.waitpid(pid, 0)[1] for pid in pids)

    status, recorder = record(work)
    assert status == 0
    assert sum(path.startswith(b"/nonexistent/") for path in recorder.accesses) == 6 * 2500
    assert recorder.is_whole


@pytest.mark.parametrize("bounds", [{"max_paths": 100}, {"max_bytes": 2000}], ids=str)
def test_what_is_kept_is_bounded_and_the_program_goes_on(bounds: dict[str, int]) -> None:
    def work() -> int:
        for index in range(20000):
            answer_of(lambda index=index: os.open(f"/nonexistent/{index}/{'x' * 100}", os.O_RDONLY))  # type: ignore[misc]
        return 7

    result, recorder = record(work, Recorder(**bounds))
    assert result == 7
    assert not recorder.is_whole
    assert len(recorder.accesses) <= 100


def test_a_path_that_is_swapped_falsifies_its_own_record_only(tmp_path: Path) -> None:
    """The kernel reads the path again. Nothing is decided by what was recorded, so nothing is lost."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def work() -> int:
        path = ctypes.create_string_buffer(os.fsencode(tmp_path / "a"))
        racing = True

        def swap() -> None:
            while racing:
                path[len(path) - 2] = b"b"
                path[len(path) - 2] = b"a"

        thread = threading.Thread(target=swap)
        thread.start()
        opened = 0
        for _ in range(2000):
            fd = syscall("openat", -100, ctypes.addressof(path), 0)
            opened += fd >= 0
            os.close(fd)
        racing = False
        thread.join()
        return opened

    opened, recorder = record(work)
    assert opened == 2000
    found = {path for path in recorder.accesses if path.startswith(os.fsencode(tmp_path))}
    assert found <= {os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")}


def test_connects_are_judged_by_the_same_listener(tmp_path: Path) -> None:
    """Behind the wall without namespaces, whose filter has one listener."""
    import socket

    def work() -> int:
        with socket.socket() as sock:
            answer = answer_of(lambda: sock.connect(("127.0.0.1", 9)))
        answer_of(lambda: os.open(tmp_path / "a", os.O_RDONLY))
        return answer

    answer, recorder = record(work, rules=Rules(HOST_PORTS))
    assert answer == errno.ECONNREFUSED
    assert os.fsencode(tmp_path / "a") in recorder.accesses


def test_a_program_cannot_be_its_own_recorder() -> None:
    """A filter above ours, with a listener, could answer in the place of the mediator."""

    def work() -> int:
        return 0 if syscall("seccomp", 1, 1 << 3, 0) >= 0 else ctypes.get_errno()

    assert record(work)[0] == errno.EBUSY


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_filter_hands_over_every_recorded_call_but_the_first_exec(arch: str) -> None:
    options: dict[str, Any] = {"arch": arch, "network": NETWORK_PROXY, "allow_ipc": True, "unix_sockets": True}
    plain = bpf.build(**options)
    program = bpf.build(**options, recorded=bpf.Recorded(RECORDED, 0x7F0012345678))

    def verdict(filter_program: bytes, name: str, *arguments: int) -> int:
        nr = number(name, arch)
        return 0 if nr is None else bpf.simulate(filter_program, AUDIT_ARCH[arch], nr, arguments)

    for name in RECORDED:
        if number(name, arch) is not None:
            assert verdict(plain, name) == bpf.ALLOW
            assert verdict(program, name) == bpf.USER_NOTIF, name
    assert verdict(program, "execve", 0x7F0012345678) == bpf.ALLOW
    assert verdict(program, "execve", 0x12345678) == bpf.USER_NOTIF
    assert verdict(program, "execve", 0x7F0012345679) == bpf.USER_NOTIF
    assert verdict(program, "openat", 0, 0, 0o100, 0o4755) == bpf.EPERM  # what another rule stops is stopped
    assert verdict(program, "openat2") == bpf.ENOSYS


ARGUMENT = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2, 3, 16, 0x100, 0o4755, 0o100, 0o1101, 0x10000000, 0x5412, 1 << 3, 0x7F0012345678]),
)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("notify", [False, True])
@given(nr=st.integers(0, 600), arguments=st.lists(ARGUMENT, max_size=6))
def test_recording_lets_nothing_through_that_was_stopped(
    arch: str, notify: bool, nr: int, arguments: list[int]
) -> None:
    options: dict[str, Any] = {
        "network": NETWORK_PROXY,
        "allow_ipc": not notify,
        "unix_sockets": True,
        "notify": notify,
    }
    plain, recorded = _programs(arch, **options)
    before = bpf.simulate(plain, AUDIT_ARCH[arch], nr, arguments)
    after = bpf.simulate(recorded, AUDIT_ARCH[arch], nr, arguments)
    names = {number(name, arch) for name in RECORDED}
    assert after == before or (before == bpf.ALLOW and after == bpf.USER_NOTIF and nr in names)


@cache
def _programs(arch: str, **options: Any) -> tuple[bytes, bytes]:
    return bpf.build(arch=arch, **options), bpf.build(
        arch=arch, **options, recorded=bpf.Recorded(RECORDED, 0x7F0012345678)
    )


def test_what_flags_ask_for() -> None:
    call = next(call for call in PATH_CALLS if call.name == "openat")
    assert wanted(call, os.O_RDONLY) == READ
    assert wanted(call, os.O_RDONLY | os.O_TRUNC) == READ | WRITE
    assert wanted(call, os.O_WRONLY | os.O_CREAT) == WRITE | MAKE
    assert wanted(call, os.O_RDWR | os.O_TMPFILE) == WRITE
    assert wanted(call, os.O_PATH | os.O_RDWR) == 0
    assert sys.platform != "linux" or call.flags_mask & os.O_PATH
