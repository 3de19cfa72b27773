"""Moving bytes inside the kernel, between real sockets and pipes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from nono.errors import KernelError
from nono.kernel import splice


@pytest.fixture
def pipe() -> Iterator[splice.Pipe]:
    pipe = splice.open_pipe(65536)
    yield pipe
    pipe.close()


def test_from_socket_through_pipe_to_socket(pipe: splice.Pipe) -> None:
    sender, source = socket.socketpair()
    target, receiver = socket.socketpair()
    with sender, source, target, receiver:
        source.setblocking(False)
        with pytest.raises(BlockingIOError):
            splice.splice(source.fileno(), pipe.write_fd, 1 << 20)
        sender.sendall(b"some bytes")
        assert splice.splice(source.fileno(), pipe.write_fd, 1 << 20) == 10
        assert splice.splice(pipe.read_fd, target.fileno(), 4) == 4
        assert splice.splice(pipe.read_fd, target.fileno(), 100) == 6
        assert receiver.recv(100) == b"some bytes"
        with pytest.raises(BlockingIOError):
            splice.splice(pipe.read_fd, target.fileno(), 100)
        sender.close()
        assert splice.splice(source.fileno(), pipe.write_fd, 100) == 0


def test_tee_leaves_the_bytes(pipe: splice.Pipe) -> None:
    other = splice.open_pipe(4096)
    with pytest.raises(BlockingIOError):
        splice.tee(pipe.read_fd, other.write_fd, 100)
    os.write(pipe.write_fd, b"twice")
    assert splice.tee(pipe.read_fd, other.write_fd, 100) == 5
    assert os.read(other.read_fd, 100) == os.read(pipe.read_fd, 100) == b"twice"
    other.close()


def test_tee_needs_pipes(pipe: splice.Pipe) -> None:
    one, two = socket.socketpair()
    with one, two, pytest.raises(KernelError):
        splice.tee(one.fileno(), pipe.write_fd, 100)


def test_pipe_is_as_large_as_allowed_and_not_inherited(pipe: splice.Pipe) -> None:
    assert pipe.capacity == 65536
    for fd in pipe[:2]:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    small = splice.open_pipe(1 << 31)  # more than any pipe may have: the default size then
    assert 4096 <= small.capacity < 1 << 31
    small.close()
