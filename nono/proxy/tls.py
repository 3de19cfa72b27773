"""TLS towards upstreams: how they are verified.

One SSLContext for each combination of tls_ca, client certificate and key; sessions (tickets) are kept per origin by
`upstream.py`. Always: TLS 1.2 or later, certificate and hostname verified, ALPN http/1.1. `SSLContext` is used bare:
`ssl.create_default_context` would honour SSLKEYLOGFILE, which writes every session's keys to a file.

System trust is what OpenSSL's defaults and SSL_CERT_FILE / SSL_CERT_DIR say; `tls_ca` is added to it. Reading the
system's bundle takes some 24 ms. Where the same certificates also stand in a hashed directory (Debian keeps both, from
one source), that is used instead: OpenSSL reads from it what a chain needs, when it needs it. In any case contexts are
made in a thread, after the listener is served.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Callable

from nono.errors import UpstreamError
from nono.loop import Loop
from nono.proxy.route import Origin

Made = Callable[[ssl.SSLContext | UpstreamError], None]
_Key = tuple[str, str, str]


def make_context(tls_ca: str, client_cert: str, client_key: str) -> ssl.SSLContext:
    """Return a verifying client context. Raises OSError (ssl.SSLError is one) when a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A connection cut without close_notify must not look like an end; to some Pythons (3.11.2 of Debian 12) it does.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.options |= ssl.OP_NO_RENEGOTIATION  # nothing here needs it, and TLS 1.3 has none
    context.hostname_checks_common_name = False  # RFC 9525 section 2: only subjectAltName names a server
    context.set_alpn_protocols(["http/1.1"])
    _trust_the_system(context)
    if tls_ca:
        context.load_verify_locations(cafile=tls_ca)
    if client_cert:
        context.load_cert_chain(client_cert, client_key or None)
    return context


def _trust_the_system(context: ssl.SSLContext) -> None:
    """Trust what OpenSSL would by default, without reading a bundle whose certificates are in the directory too."""
    directory = os.path.realpath(ssl.get_default_verify_paths().openssl_capath)
    bundle = os.path.join(directory, "ca-certificates.crt")  # update-ca-certificates(8) makes both from one list
    chosen_file, chosen_directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    is_default = (not chosen_file or os.path.realpath(chosen_file) == bundle) and (
        not chosen_directory or os.path.realpath(chosen_directory) == directory
    )
    if is_default and os.path.exists(bundle) and _is_hashed(directory):
        context.load_verify_locations(capath=directory)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _is_hashed(directory: str) -> bool:
    """Whether a directory of certificates has the names that OpenSSL looks for (openssl-rehash(1))."""
    try:
        with os.scandir(directory) as entries:
            return any(_HASHED_NAME(entry.name) for entry in entries)
    except OSError:
        return False


_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+").fullmatch


class Contexts:
    """Makes each context once, in a thread, when it is first asked for."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._made: dict[_Key, ssl.SSLContext] = {}
        self._waiting: dict[_Key, list[Made]] = {}

    def get(self, origin: Origin, callback: Made) -> None:
        """Call `callback` with the context for this origin, or with an UpstreamError. May call it at once."""
        key = (origin.tls_ca, origin.tls_client_cert, origin.tls_client_key)
        made = self._made.get(key)
        if made is not None:
            callback(made)
            return
        waiting = self._waiting.setdefault(key, [])
        waiting.append(callback)
        if len(waiting) == 1:
            try:
                threading.Thread(target=self._make, args=(key,), daemon=True, name="nono-tls").start()
            except RuntimeError:  # RLIMIT_NPROC, or no memory for a stack; the next request tries again
                message = "No thread can be started to load certificates; too many processes run here."
                self._done(key, UpstreamError(502, "tls_config", message))

    def _make(self, key: _Key) -> None:
        made: ssl.SSLContext | UpstreamError
        try:
            made = make_context(*key)
        except OSError as error:
            files = ", ".join(name for name in key if name) or "the system's certificates"
            reason = error.strerror or type(error).__name__
            made = UpstreamError(502, "tls_config", f"Certificates cannot be loaded from {files}: {reason}.")
        except (ValueError, TypeError, RuntimeError, MemoryError) as error:
            # Whatever it is, somebody waits for an answer.
            made = UpstreamError(502, "tls_config", f"Certificates cannot be loaded: {type(error).__name__}.")
        self._loop.call_from_thread(lambda: self._done(key, made))

    def _done(self, key: _Key, made: ssl.SSLContext | UpstreamError) -> None:
        if isinstance(made, ssl.SSLContext):
            self._made[key] = made
        for callback in self._waiting.pop(key, []):
            callback(made)
