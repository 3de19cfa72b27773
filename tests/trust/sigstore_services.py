"""Fulcio, Rekor and GitHub's token service over HTTP on loopback: what `sigstore` talks to when it signs.

    with Services(world, directory) as services:
        root, signing = services.files()      trusted_root.json and signing_config.json
        services.github()                     the environment of a job that may ask for a token

Each checks of a request what makes its answer true: the key that is certified is its holder's, the entry that is logged
is signed. Fulcio certifies what a token says without checking the token: nobody here has GitHub's key.

Sources: Fulcio's and Rekor's openapi; GitHub docs, "OpenID Connect".
"""

from __future__ import annotations

import json
import threading
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from nono.trust.bundle import pae
from tests.trust.sigstore_world import (
    ISSUER,
    REF,
    REPOSITORY,
    WORKFLOW,
    Certificate,
    World,
    canonical,
    dsse_body,
    github_extensions,
    log_id,
    text,
)
from tests.trust.timestamping import Timestamping


def token(claims: Mapping[str, Any]) -> str:
    """Return a JWT with these claims. Nobody here checks its signature: that is the real Fulcio's job."""
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join((*encoded, "c2lnbmF0dXJl"))


def github_claims(**changes: Any) -> dict[str, Any]:
    """Return what GitHub's token says of a job that runs now."""
    now = int(datetime.now(UTC).timestamp())
    return {
        "iss": ISSUER,
        "aud": "sigstore",
        "sub": f"repo:{REPOSITORY}:ref:{REF}",
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        "repository": REPOSITORY,
        "ref": REF,
        "workflow_ref": f"{REPOSITORY}/{WORKFLOW}@{REF}",
        "job_workflow_ref": f"{REPOSITORY}/{WORKFLOW}@{REF}",
        "actor": "somebody",
    } | changes


class Services:
    """Fulcio, Rekor and GitHub's token service on loopback, for as long as the `with` lasts.

    fail: path -> the status that it answers. asked: the paths that were asked for. timestamps: a timestamp authority,
    where there is one. rekor_version: 2 gives no promise and no time, so it wants timestamps.
    """

    def __init__(
        self, world: World, directory: Path, timestamps: Timestamping | None = None, rekor_version: int = 1
    ) -> None:
        self.world = world
        self.claims = github_claims()
        self.fail: dict[str, int] = {}
        self.asked: list[str] = []
        self._directory = directory
        self.timestamps = timestamps
        self.rekor_version = rekor_version

    def __enter__(self) -> Self:
        services = self

        class Handler(_Handler):
            answers: ClassVar[Services] = services

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def signing_config(self) -> bytes:
        service = [
            {"url": self.url, "majorApiVersion": 1, "validFor": {"start": "2026-01-01T00:00:00Z"}, "operator": "test"}
        ]
        document = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service,
            "oidcUrls": service,
            "rekorTlogUrls": [{**service[0], "majorApiVersion": self.rekor_version}],
            "tsaUrls": [{**service[0], "url": f"{self.url}/timestamp"}] if self.timestamps else [],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }
        return json.dumps(document).encode()

    def files(self) -> tuple[Path, Path]:
        """Return the paths of trusted_root.json and signing_config.json."""
        root, signing = self._directory / "trusted_root.json", self._directory / "signing_config.json"
        root.write_bytes(self.world.trusted_root())
        signing.write_bytes(self.signing_config)
        return root, signing

    def github(self) -> dict[str, str]:
        """Return the environment of a job of GitHub's that may ask for tokens."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the job's own",
        }

    def gitlab(self) -> dict[str, str]:
        return {"GITLAB_CI": "true", "SIGSTORE_ID_TOKEN": token(self.claims)}

    # what is answered

    def token(self, headers: Mapping[str, str]) -> dict[str, Any]:
        assert headers["Authorization"] == "bearer the job's own"
        return {"value": token(self.claims)}

    def signing_cert(self, headers: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, Any]:
        """Certify what the token says, for a key that its holder has."""
        said = headers["Authorization"].removeprefix("Bearer ").split(".")[1]
        claims = json.loads(b64decode(said.replace("-", "+").replace("_", "/") + "=="))
        request = x509.load_pem_x509_csr(b64decode(asked["certificateSigningRequest"]))
        assert request.is_signature_valid
        signer = f"https://github.com/{claims['job_workflow_ref']}"
        values = {
            "_8": claims["iss"],
            "_9": signer,
            "_12": f"https://github.com/{claims['repository']}",
            "_14": claims["ref"],
            "_18": f"https://github.com/{claims['workflow_ref']}",
        }
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
        wanted = Certificate(
            start=start, san=[x509.UniformResourceIdentifier(signer)], extensions=github_extensions(**values)
        )
        public_key = request.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        chain = (
            self.world.certify(wanted, public_key),
            self.world.intermediate.certificate,
            self.world.root.certificate,
        )
        pems = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}

    def entries(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Log an envelope, if its signature is by the certificate that comes with it."""
        content = asked["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        certificate = x509.load_pem_x509_certificate(b64decode(content["verifiers"][0]))
        payload, signature = b64decode(envelope["payload"]), b64decode(envelope["signatures"][0]["sig"])
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        public_key.verify(signature, pae(envelope["payloadType"], payload), ec.ECDSA(hashes.SHA256()))
        body = dsse_body(payload, signature, certificate)
        made = self.world.entry(body, datetime.now(UTC))
        proof = made["inclusionProof"]
        return {
            sha256(body).hexdigest(): {
                "body": text(body),
                "integratedTime": int(made["integratedTime"]),
                "logID": log_id(self.world.rekor_key).hex(),
                "logIndex": int(made["logIndex"]),
                "verification": {
                    "inclusionProof": {
                        "checkpoint": proof["checkpoint"]["envelope"],
                        "hashes": [b64decode(node).hex() for node in proof["hashes"]],
                        "logIndex": int(proof["logIndex"]),
                        "rootHash": b64decode(proof["rootHash"]).hex(),
                        "treeSize": int(proof["treeSize"]),
                    },
                    "signedEntryTimestamp": made["inclusionPromise"]["signedEntryTimestamp"],
                },
            }
        }

    def entries_v2(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Log the digest of an envelope's encoding, if the signature is over that."""
        wanted = asked["hashedRekordRequestV002"]
        certificate = x509.load_der_x509_certificate(
            b64decode(wanted["signature"]["verifier"]["x509Certificate"]["rawBytes"])
        )
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        digest, signature = b64decode(wanted["digest"]), b64decode(wanted["signature"]["content"])
        public_key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        data = {"algorithm": "SHA2_256", "digest": wanted["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": wanted["signature"]}}
        made = self.world.entry(
            canonical({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec}), datetime.now(UTC)
        )
        return {name: value for name, value in made.items() if name not in ("integratedTime", "inclusionPromise")}


class _Handler(BaseHTTPRequestHandler):
    answers: ClassVar[Services]

    def do_GET(self) -> None:
        self._answer(lambda: self.answers.token(self.headers), "/token")  # type: ignore[arg-type]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/timestamp" and self.answers.timestamps:
            self._reply(self.path, self.answers.timestamps.reply(body), "application/timestamp-reply")
            return
        asked = json.loads(body)
        if self.path == "/api/v2/signingCert":
            self._answer(lambda: self.answers.signing_cert(self.headers, asked), self.path)  # type: ignore[arg-type]
        elif self.path == "/api/v2/log/entries":
            self._answer(lambda: self.answers.entries_v2(asked), self.path)
        else:
            self._answer(lambda: self.answers.entries(asked), self.path)

    def _answer(self, answer: Any, path: str) -> None:
        said = {"message": "no"} if self.answers.fail.get(path, 200) != 200 else answer()
        self._reply(path, json.dumps(said).encode(), "application/json")

    def _reply(self, path: str, body: bytes, kind: str) -> None:
        self.answers.asked.append(path)
        self.send_response(self.answers.fail.get(path, 200))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
