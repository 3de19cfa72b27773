"""The kernel's own records of what Landlock denied: read as they are documented, and received from a real kernel."""

from __future__ import annotations

import os
import select
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import KernelError
from nono.kernel import audit, landlock
from nono.kernel.audit import LANDLOCK_ACCESS, LANDLOCK_DOMAIN, Records
from tests.kernel.inside import EVERYWHERE, shell

COMM = "nono-0123456789"
EVENT = b"audit(1729738800.268:30): "
ALLOCATED = (
    EVENT + b"domain=195ba459b status=allocated mode=enforcing pid=286 uid=0 "
    b'exe="/usr/bin/python3.11" comm="nono-0123456789"'
)
AUDIT_USER_AVC = 1107  # which the kernel passes on even where audit is switched off


def access(rest: bytes, domain: bytes = b"195ba459b") -> bytes:
    return EVENT + b"domain=" + domain + b" " + rest


def denied(*records: tuple[int, bytes]) -> dict[tuple[bytes, bool], int]:
    found = Records(COMM)
    for kind, text in records:
        found.take(kind, text)
    return found.denied


def test_reads_the_documented_example() -> None:
    """Of Documentation/admin-guide/LSM/landlock.rst: two records of one event, the domain's behind them."""
    assert denied(
        (LANDLOCK_ACCESS, access(b'blockers=fs.refer path="/usr/bin" dev="vda2" ino=351')),
        (LANDLOCK_ACCESS, access(b'blockers=fs.make_reg,fs.refer path="/usr/local" dev="vda2" ino=365')),
        (LANDLOCK_DOMAIN, ALLOCATED),
    ) == {(b"/usr/bin", True): 1, (b"/usr/local", True): 1}


@pytest.mark.parametrize(
    ("blockers", "writes"),
    [
        (b"fs.read_file", False),
        (b"fs.read_dir", False),
        (b"fs.execute", False),
        (b"fs.write_file", True),
        (b"fs.write_file,fs.read_file", True),
        (b"fs.remove_file", True),
        (b"fs.truncate", True),
    ],
)
def test_tells_reading_from_writing(blockers: bytes, writes: bool) -> None:
    record = access(b"blockers=" + blockers + b' path="/x" dev="vda2" ino=3')
    assert denied((LANDLOCK_ACCESS, record), (LANDLOCK_DOMAIN, ALLOCATED)) == {(b"/x", writes): 1}


def test_counts_what_comes_again() -> None:
    record = (LANDLOCK_ACCESS, access(b'blockers=fs.read_file path="/x" dev="vda2" ino=3'))
    assert denied(record, (LANDLOCK_DOMAIN, ALLOCATED), record, record) == {(b"/x", False): 3}


def test_a_path_in_hexadecimal_is_decoded() -> None:
    path = b'/home/u/a "b"\n\xff'
    record = access(b"blockers=fs.read_file path=" + path.hex().upper().encode() + b' dev="vda2" ino=3')
    assert denied((LANDLOCK_ACCESS, record), (LANDLOCK_DOMAIN, ALLOCATED)) == {(path, False): 1}


def test_other_sandboxes_are_none_of_ours() -> None:
    """A domain of somebody else, or of the agent's own making; and what is denied that is no path."""
    theirs = ALLOCATED.replace(b"195ba459b", b"aaa").replace(COMM.encode(), b"nono-9999999999")
    nameless = ALLOCATED.replace(b"195ba459b", b"bbb").replace(b'"' + COMM.encode() + b'"', b"(null)")
    path = b'blockers=fs.read_file path="/x" dev="vda2" ino=3'
    assert not denied(
        (LANDLOCK_ACCESS, access(path, b"aaa")),
        (LANDLOCK_DOMAIN, theirs),
        (LANDLOCK_ACCESS, access(path, b"bbb")),
        (LANDLOCK_DOMAIN, nameless),
        (LANDLOCK_ACCESS, access(b'blockers=scope.signal opid=1 ocomm="systemd"')),
        (LANDLOCK_ACCESS, access(b"blockers=net.connect_tcp daddr=10.0.0.1 dest=80")),
        (LANDLOCK_ACCESS, access(path)),  # never claimed
        (1300, ALLOCATED),
    )


def test_a_flood_is_kept_small() -> None:
    found = Records(COMM)
    for number in range(5000):
        found.take(LANDLOCK_ACCESS, access(b'blockers=fs.read_file path="/x/%d"' % number, b"%x" % number))
    assert len(found._waiting) == 64
    found.take(LANDLOCK_ACCESS, access(b'blockers=fs.read_file path="/y"', b"0"))
    found.take(LANDLOCK_DOMAIN, ALLOCATED.replace(b"195ba459b", b"0"))
    for number in range(5000):
        found.take(LANDLOCK_ACCESS, access(b'blockers=fs.read_file path="/z/%d"' % number, b"0"))
    assert len(found.denied) == audit.MAX_DENIALS


@given(st.sampled_from((LANDLOCK_ACCESS, LANDLOCK_DOMAIN)), st.binary(max_size=200), st.booleans())
def test_no_record_breaks_it(kind: int, text: bytes, is_begun: bool) -> None:
    Records(COMM).take(kind, (EVENT if is_begun else b"") + text)


def test_a_name_for_the_domain_fits_and_is_new_each_time() -> None:
    names = {audit.new_comm() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name.encode()) <= 15 for name in names)


def reader() -> audit.Reader:
    try:
        return audit.Reader(COMM)
    except KernelError as error:
        pytest.skip(f"the kernel's audit records are not for this user to read: {error}")


def test_records_arrive_from_the_kernel() -> None:
    """One of a program's own, which the kernel passes on to the same group. Its type and its text are whole."""
    listening = reader()
    taken: list[tuple[int, bytes]] = []
    listening.records.take = lambda kind, text: taken.append((kind, text))  # type: ignore[method-assign]
    mark = b"nono test " + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sender:
        sender.bind((0, 0))
        try:
            sender.sendto(struct.pack("=IHHII", 16 + len(mark) + 1, AUDIT_USER_AVC, 1, 1, 0) + mark + b"\0", (0, 0))
        except OSError as error:
            pytest.skip(f"this kernel takes no record from a program: {error}")
    try:
        while not any(mark in text for _, text in taken):
            assert select.select([listening.fd], [], [], 10)[0]
            listening.read()
    finally:
        listening.close()
    ((kind, text),) = [each for each in taken if mark in each[1]]
    assert kind == AUDIT_USER_AVC
    assert audit.parse(text)[b"pid"] == str(os.getpid()).encode()


def test_audit_that_is_off_is_left_off() -> None:
    reader().close()
    before = audit.is_enabled()
    found = audit.open_reader(COMM)
    assert (found is not None) == before
    if found is not None:
        found.close()
    assert audit.is_enabled() == before


@EVERYWHERE
def test_an_agent_that_the_kernel_logs_of_keeps_its_own_name(namespaces: int) -> None:
    if landlock.abi() < landlock.LOGGING_ABI:
        pytest.skip("this kernel's Landlock logs nothing (Linux 6.15 does)")
    finished = shell("cat /proc/self/comm", namespaces=namespaces, log_as=COMM)
    assert finished == (0, "cat\n")
