"""A CI job signs as itself: without a key, with a certificate of Fulcio for whom the CI says it is, logged in Rekor.

    identity = ambient()                        the job's token, from the CI that this runs in
    sign = signer(identity, root, signing)      one certificate, good for some minutes
    sign(payload)                               the bundle, for any number of statements

An identity is ambient or there is none: nothing here opens a browser. The token is a secret for as long as it is valid:
it goes to Fulcio alone, and neither it nor what a service answered is in a message. What is certified and logged is
public for ever: the repository, the workflow, and the names and digests in the statement.

The statement says of the signer what the Rust tool's verifier looks for, and no more of the token's claims than that.
Who verifies goes by the certificate. Each bundle is verified (keyless.identity_of) before it is handed out, so what was
signed here can be verified offline, by the same trusted root.

Source: sigstore client spec, "Signing"; GitHub and GitLab docs on OpenID Connect for the claims.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode
from urllib.parse import urlsplit

from nono.errors import NonoError, UsageError
from nono.trust import keyless, trusted_root
from nono.trust.bundle import parse

try:
    from requests.adapters import HTTPAdapter
    from sigstore.dsse import Statement
    from sigstore.models import InvalidBundle
    from sigstore.oidc import IdentityToken, detect_credential
    from sigstore.sign import Signer, SigningContext
except ImportError:
    raise UsageError(f"signatures without a key need the package sigstore: {trusted_root.INSTALL}") from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nono.trust.trusted_root import SigningConfig, TrustRoot

TIMEOUT_S = 30.0
"""How long a service may keep silent."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_NO_IDENTITY = (
    "nobody vouches for who runs this: signing without a key works in a CI job that may ask for a token (on GitHub, "
    "permissions: id-token: write; on GitLab, id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore); elsewhere, sign with a "
    "key: nono trust keygen"
)
_REFUSED_BY = {
    "GITHUB_ACTIONS": "GitHub gives this job no token; give its workflow permissions: id-token: write",
    "GITLAB_CI": "GitLab gives this job no token; give it id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore",
}


class SigningError(NonoError):
    """A service of Sigstore, or of the CI, did not do its part."""


class Identity:
    """Who a CI job is. signer: what a statement says of it. The token is not for anybody's eyes."""

    __slots__ = ("_token", "signer")

    def __init__(self, token: str) -> None:
        try:
            self._token = IdentityToken(token)
            self.signer = _signer(json.loads(urlsafe_b64decode(token.split(".")[1] + "==")))
        except Exception:  # noqa: BLE001  (it may quote the token)
            raise UsageError("the token of this CI job is not for Sigstore, or not valid any more") from None

    @property
    def token(self) -> IdentityToken:
        """For Fulcio alone."""
        return self._token


def ambient() -> Identity:
    """Return the identity of the CI job that this runs in. Raises UsageError where nobody vouches for one."""
    try:
        token = detect_credential()
    except Exception:  # noqa: BLE001  (it quotes what the CI answered)
        refused = next((said for name, said in _REFUSED_BY.items() if os.environ.get(name)), "")
        raise UsageError(refused or "this CI gives this job no token") from None
    if not token:
        raise UsageError(_NO_IDENTITY)
    return Identity(token)


def signer(identity: Identity, root: TrustRoot, signing: SigningConfig) -> Callable[[bytes], bytes]:
    """Return a function: a statement -> its bundle file. It and this raise SigningError, PolicyError for the files."""
    content = keyless.content_of(root)
    try:
        configuration = keyless.configuration(content, json.loads(signing.data))
        where = configuration.signing_config
        fulcio, rekor = where.get_fulcio(), where.get_tlogs()[0]
        context = SigningContext(
            fulcio=fulcio, rekor=rekor, trusted_root=configuration.trusted_root, tsa_clients=where.get_tsas()
        )
    except Exception:  # noqa: BLE001
        raise UsageError(f"{signing.source} is not a signing configuration that is read, or is none any more") from None
    log = getattr(rekor, "url", "").partition("/api/")[0]
    for url in (fulcio.url, log, *(stamps.url for stamps in where.get_tsas())):
        if not _is_safe(url):
            raise UsageError(f"{signing.source} names {url}: only https is safe for a token, or http on this machine")
    for session in (fulcio.session, getattr(rekor, "_session", None)):
        if session is not None:
            for scheme in ("https://", "http://"):
                session.mount(scheme, _Patient())
    try:
        certified = Signer(identity.token, context)
    except Exception as error:  # noqa: BLE001
        raise SigningError(f"Fulcio ({fulcio.url}) gave no certificate{_why(error)}") from None

    def sign(payload: bytes) -> bytes:
        try:
            signed = certified.sign_dsse(Statement(payload))
            data = json.dumps(json.loads(signed.to_json()), indent=2).encode() + b"\n"
        except InvalidBundle:
            raise SigningError(
                f"Rekor ({log}) logged the signature, but no timestamp authority gave it a time"
            ) from None
        except Exception as error:  # noqa: BLE001
            if type(error).__name__ == "ExpiredCertificate":  # of a module of its own
                raise SigningError("the certificate is not valid any more; sign fewer files at once") from None
            raise SigningError(f"Rekor ({log}) did not log the signature{_why(error)}") from None
        keyless.identity_of(parse(data, "what Fulcio and Rekor made"), root)
        return data

    return sign


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


class _Patient(HTTPAdapter):
    """Waits, but not for ever: `sigstore` itself sets no time."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send with a time limit."""
        return super().send(*args, **(kwargs | {"timeout": TIMEOUT_S}))


def _signer(claims: Mapping[str, Any]) -> dict[str, str]:
    """Return what the statement says of a job, by its token's claims."""
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    workflow = claims.get("workflow_ref") or claims.get("ci_config_ref_uri") or ""
    instructions = claims.get("job_workflow_ref")
    return {
        "kind": "keyless",
        "issuer": str(claims["iss"]),
        "repository": str(claims.get("repository") or claims.get("project_path") or ""),
        "workflow_ref": str(workflow),
        "subject": str(claims["sub"]),
        "ref": str(claims.get("ref") or ""),
        "build_signer_uri": f"{server}/{instructions}" if instructions else f"https://{workflow}" if workflow else "",
    }


def _why(error: BaseException) -> str:
    """Return the HTTP status that an error is about, or that there was no answer. Never its text."""
    seen: list[object] = [error, error.__cause__, error.__context__, *error.args]
    for each in seen:
        status = getattr(getattr(each, "response", None), "status_code", None) or getattr(each, "status_code", None)
        if isinstance(status, int):
            return f": it answered {status}"
    if any(isinstance(each, OSError) for each in seen):
        return ": it cannot be reached"
    return ""
