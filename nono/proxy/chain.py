"""Through a proxy of the operator's: which origins, and how a tunnel is asked for and answered.

Where the network lets nobody out but by a corporate proxy, every connection to an upstream begins with a CONNECT to it;
what follows (TLS, a request, the agent's own tunnel) is as without. Plain http:// goes through a tunnel as well. The
corporate proxy is named by the operator, so it may have a private or loopback address; `pins` checks it as any other.

The origin's name is then resolved over there, so its addresses cannot be checked here. Refused before anything is asked
for: an address literal that its scope does not permit, names under which clouds keep their metadata, and the corporate
proxy itself, which would let the agent out past the allowlist.

Direct, without the proxy: loopback, always; and what `bypass` names (policy/upstream.py).

The credential, USER:PASSWORD, is sent as Basic (RFC 7617). It is encoded from locked memory into locked memory, sent
from there and wiped at once; a fresh connection's buffer takes it whole.

The answer is read to the end of its head and not one byte further: what follows belongs to the tunnel. Only its status
reaches the agent. Any 2xx is the tunnel (RFC 9110 section 9.3.6), 1xx is passed over, all else is an UpstreamError.
"""

from __future__ import annotations

import _socket
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable

from nono.errors import PolicyError, Refusal, UpstreamError
from nono.kernel.secretmem import SecretBuffer
from nono.policy.allowlist import METADATA_HOSTS, host_and_port
from nono.policy.upstream import Bypass, parse_bypass
from nono.proxy.inject import BASE64, SLOT_BYTES, LockedBuffer, Outgoing, ScratchPool, Shown
from nono.proxy.pins import address_denied, permitted
from nono.proxy.route import Origin, Secret

MAX_ANSWER_BYTES = 16384

_END = b"\r\n\r\n"
_VERSION = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\0]*)?\r\n").match
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0").search
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Chain:
    """The corporate proxy of one run."""

    def __init__(
        self,
        host: str,
        port: int,
        bypass: Iterable[str] = (),
        credential: Secret | None = None,
        make_scratch: Callable[[int], LockedBuffer] = SecretBuffer,
    ) -> None:
        """credential: USER:PASSWORD, in locked memory. make_scratch: a stand-in for tests.

        Raises PolicyError for a pattern or a credential that cannot be used, KernelError when no memory can be locked.
        """
        self.host = host
        self.port = port
        self.authority = host_and_port(host, port)
        self._bypasses = [parse_bypass(pattern) for pattern in bypass]
        self._secret: memoryview | None = None
        self._scratch: ScratchPool | None = None
        if credential is not None:
            secret = credential.view[: credential.length]
            if 0x3A not in secret:
                raise PolicyError("the credential of the upstream proxy must be USER:PASSWORD; store it so")
            if len(secret) > SLOT_BYTES // 4:
                raise PolicyError("the credential of the upstream proxy is too long; store USER:PASSWORD and no more")
            self._secret = secret
            self._scratch = ScratchPool(make_scratch, 1)

    def takes(self, origin: Origin) -> bool:
        """Whether connections to `origin` go through the proxy. Pure."""
        host, address = origin.host.lower().rstrip("."), _address(origin.host)
        if self._is_itself(origin):
            return True  # so that `check` refuses it
        if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
            return False
        return not any(_covers(bypass, host, address, origin.port) for bypass in self._bypasses)

    def check(self, origin: Origin, scope: str) -> None:
        """Raise Refusal 403 for an origin that must not be asked for, wherever it is resolved. Pure."""
        if self._is_itself(origin):
            message = (
                f"{self.authority} is the proxy that nono goes through; a tunnel to it would pass the allowlist by."
            )
            raise Refusal(403, "host_denied", message)
        host = origin.host.lower().rstrip(".")
        if _address(host) is not None:
            if not permitted(host, scope):
                raise address_denied(host, origin.port, scope, [host])
        elif any(host == name or host.endswith(f".{name}") for name in METADATA_HOSTS):
            message = f"{origin.host} is a cloud's metadata service, which is never reachable."
            raise Refusal(403, "address_denied", message)

    def ask(self, sock: _socket.socket, origin: Origin) -> Answer:
        """Ask for a tunnel to `origin` on a fresh connection. Raises OSError when the connection is gone."""
        target = host_and_port(origin.host, origin.port).encode("ascii")
        before = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (target, target)
        if self._secret is None or self._scratch is None:
            self._send(sock, before + b"\r\n")
        else:
            slot = self._scratch.take()
            assert slot is not None  # nobody keeps it across turns of the loop
            request = Outgoing(
                before + b"Proxy-Authorization: Basic ", _END, BASE64, True, self._secret, origin, b"CONNECT", 0, False,
                False, b"", Shown("", "", "CONNECT", ""),
            )  # fmt: skip
            size, _ = slot.assemble(request, b"")
            try:
                self._send(sock, slot.view[:size])
            finally:
                slot.release()
        return Answer(self, origin)

    def close(self) -> None:
        """Wipe the scratch, let go of the credential (its owner wipes it)."""
        if self._scratch is not None:
            self._scratch.close()
        if self._secret is not None:
            self._secret.release()
        self._secret = self._scratch = None

    def failure(self, what: str, status: int = 502) -> UpstreamError:
        """The error that says what the corporate proxy did."""
        return UpstreamError(status, "upstream_proxy", f"The upstream proxy {self.authority} {what}")

    @property
    def has_credential(self) -> bool:
        return self._secret is not None

    def _is_itself(self, origin: Origin) -> bool:
        return origin.port == self.port and origin.host.lower().rstrip(".") == self.host

    @staticmethod
    def _send(sock: _socket.socket, data: bytes | memoryview) -> None:
        if sock.send(data) < len(data):
            raise ConnectionError("a fresh connection did not take a head")


class Answer:
    """The answer to one CONNECT, as it comes."""

    __slots__ = ("_bytes", "_chain", "_head", "_origin")

    def __init__(self, chain: Chain, origin: Origin) -> None:
        self._chain = chain
        self._origin = origin
        self._head = b""
        self._bytes = 0  # with the 1xx before it

    def read(self, sock: _socket.socket) -> bool:
        """Read what has arrived; return whether the tunnel stands. Raises UpstreamError."""
        while True:
            known = len(self._head)
            try:
                ahead = sock.recv(MAX_ANSWER_BYTES, socket.MSG_PEEK)
                head = self._head + ahead
                end = head.find(_END, max(0, known - 3))
                head = head if end < 0 else head[: end + 4]
                taken = sock.recv(len(head) - known) if ahead else b""
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                taken = b""
            if not taken or known + len(taken) != len(head):
                raise self._chain.failure(f"closed the connection instead of answering for {self._origin.authority}.")
            self._bytes += len(taken)
            if self._bytes > MAX_ANSWER_BYTES or (end < 0 and self._bytes == MAX_ANSWER_BYTES):
                raise self._chain.failure(f"sent an answer whose head is larger than {MAX_ANSWER_BYTES} bytes.")
            if not head.startswith(_VERSION[: len(head)]) or _BARE(head):
                raise self._malformed()
            if end < 0:
                self._head = head
                continue
            status = _STATUS(head)
            if status is None:
                raise self._malformed()
            self._head = b""
            if self._means_tunnel(int(status[1])):
                return True

    def _means_tunnel(self, status: int) -> bool:
        """Whether this is the answer; False for one before it. Raises UpstreamError for a refusal."""
        if 200 <= status < 300:
            return True
        if status == 101:
            raise self._malformed()
        if status < 200:
            return False
        where = f"{self._origin.host}:{self._origin.port}"
        if status == 407:
            known = "does not accept the credential that nono holds for it: store the right USER:PASSWORD"
            advice = (
                known if self._chain.has_credential else "wants a credential: name one with --upstream-proxy-credential"
            )
        elif status in (401, 403, 405):
            port = (
                ""
                if self._origin.port == 443
                else f" (for one, whether CONNECT to port {self._origin.port} is allowed)"
            )
            advice = (
                f"does not let you reach {where}: ask whoever runs it{port}, or go around it with --upstream-bypass"
            )
        elif status >= 500:
            advice = f"could not reach {where}: check the name, or go around the proxy with --upstream-bypass"
        else:
            advice = f"did not open a tunnel to {where}: check that it is an HTTP proxy that allows CONNECT"
        raise self._chain.failure(f"answered {status}; it {advice}.")

    def _malformed(self) -> UpstreamError:
        return self._chain.failure("sent something that is no HTTP answer; check that this is an HTTP proxy's address.")


def _covers(bypass: Bypass, host: str, address: _Address | None, port: int) -> bool:
    """address: what `host` is as an address, None for a name."""
    if bypass.port not in (0, port):
        return False
    network = bypass.network
    if network is not None:
        if address is None or address.max_prefixlen != network.bits:
            return False
        return int(address) >> network.free == network.prefix
    if not bypass.name:
        return True
    return address is None and (host.endswith(f".{bypass.name}") or (bypass.itself and host == bypass.name))


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
