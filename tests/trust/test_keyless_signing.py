"""A CI job signs without a key: against Fulcio, Rekor and a CI on loopback (sigstore_services.py), over real HTTP."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.errors import PolicyError, UsageError
from nono.trust import keyless, keyless_signing, signing
from nono.trust.bundle import INSTRUCTION_FILE, MEDIA_TYPE, parse, parse_statement
from nono.trust.errors import BundleError
from nono.trust.keyless_signing import Identity, SigningError
from nono.trust.policy import Keyless
from nono.trust.trusted_root import SigningConfig, TrustRoot
from tests.trust.sigstore_services import Services, github_claims, token
from tests.trust.sigstore_world import ISSUER, REF, REPOSITORY, SIGNER_URI, WORKFLOW, World, new_key
from tests.trust.timestamping import Timestamping

JOB = Keyless(ISSUER, REPOSITORY, WORKFLOW, REF, SIGNER_URI, SIGNER_URI)
SUBJECTS = [("SKILL.md", "0" * 64)]


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The services, in an environment in which nobody vouches for anybody yet."""
    for name in os.environ:
        if name.startswith(("GITHUB_", "GITLAB_", "CI", "ACTIONS_", "SIGSTORE_", "BUILDKITE", "CIRCLECI", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Services(World(), tmp_path) as made:
        yield made


def root_of(services: Services) -> TrustRoot:
    return TrustRoot("trusted_root.json", services.world.trusted_root(), "")


def config_of(services: Services) -> SigningConfig:
    return SigningConfig("signing_config.json", services.signing_config)


def sign(services: Services, identity: Identity) -> bytes:
    payload = signing.statement(SUBJECTS, INSTRUCTION_FILE, identity.signer)
    return keyless_signing.signer(identity, root_of(services), config_of(services))(payload)


def enter(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_job_of_githubs_signs_and_is_known_by_it(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, services.github())
    identity = keyless_signing.ambient()
    made = parse(sign(services, identity), "SKILL.md.bundle")
    assert (made.media_type, made.is_keyless, made.statement.subjects) == (MEDIA_TYPE, True, tuple(SUBJECTS))
    assert keyless.identity_of(made, root_of(services)) == JOB
    assert services.asked == ["/token", "/api/v2/signingCert", "/api/v1/log/entries"]


def test_the_statement_says_what_the_rust_tool_looks_for_and_no_more(services: Services) -> None:
    identity = Identity(token(services.claims))
    statement = parse_statement(signing.statement(SUBJECTS, INSTRUCTION_FILE, identity.signer))
    assert statement.predicate == {
        "version": 1,
        "signer": {
            "kind": "keyless",
            "issuer": ISSUER,
            "repository": REPOSITORY,
            "workflow_ref": f"{REPOSITORY}/{WORKFLOW}@{REF}",
            "subject": f"repo:{REPOSITORY}:ref:{REF}",
            "ref": REF,
            "build_signer_uri": SIGNER_URI,
        },
    }


def test_a_job_of_gitlabs_signs_with_the_token_in_its_environment(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, services.gitlab())
    sign(services, keyless_signing.ambient())
    assert services.asked == ["/api/v2/signingCert", "/api/v1/log/entries"]


def test_what_a_statement_says_of_a_job_of_gitlabs() -> None:
    claims = github_claims(
        iss="https://gitlab.com",
        project_path="acme/skills",
        ci_config_ref_uri="gitlab.com/acme/skills//.gitlab-ci.yml@x",
    )
    for name in ("repository", "workflow_ref", "job_workflow_ref"):
        del claims[name]
    signer = Identity(token(claims)).signer
    assert signer["repository"] == "acme/skills"
    assert signer["workflow_ref"] == "gitlab.com/acme/skills//.gitlab-ci.yml@x"
    assert signer["build_signer_uri"] == "https://gitlab.com/acme/skills//.gitlab-ci.yml@x"


def test_one_certificate_signs_many_statements(services: Services) -> None:
    identity = Identity(token(services.claims))
    sign_one = keyless_signing.signer(identity, root_of(services), config_of(services))
    for number in range(3):
        payload = signing.statement([(f"{number}.md", "0" * 64)], INSTRUCTION_FILE, identity.signer)
        made = parse(sign_one(payload), "it")
        assert made.payload == payload
        assert keyless.identity_of(made, root_of(services)) == JOB
    assert services.asked.count("/api/v2/signingCert") == 1


def test_a_timestamp_authority_is_asked_where_there_is_one_and_its_time_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stamps = Timestamping(tmp_path / "timestamps")
    with Services(World(), tmp_path, stamps) as services:
        identity = Identity(token(services.claims))
        payload = signing.statement(SUBJECTS, INSTRUCTION_FILE, identity.signer)
        entry = stamps.entry({"start": "2026-01-01T00:00:00Z"})
        root = TrustRoot("root", services.world.trusted_root(timestampAuthorities=[entry]), "")
        sign_one = keyless_signing.signer(identity, root, config_of(services))
        made = parse(sign_one(payload), "it")
        assert services.asked == ["/api/v2/signingCert", "/timestamp", "/api/v1/log/entries"]
        assert keyless.identity_of(made, root) == JOB
        # Rekor's promise taken away, the time of the authority is left.
        fields = json.loads(made.raw)
        del fields["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]
        unpromised = made._replace(raw=json.dumps(fields).encode())
        assert keyless.identity_of(unpromised, root) == JOB
        ended = stamps.entry({"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"})
        for others in ([], [ended], [Timestamping(tmp_path / "others").entry({"start": "2026-01-01T00:00:00Z"})]):
            other = TrustRoot("root", services.world.trusted_root(timestampAuthorities=others), "")
            with pytest.raises(BundleError, match=r"carries no time that|carries a timestamp of no authority"):
                keyless.identity_of(unpromised, other)
        services.fail["/timestamp"] = 500
        assert keyless.identity_of(parse(sign_one(payload), "it"), root) == JOB
    assert capfd.readouterr() == ("", "")


def test_the_newer_rekor_signs_with_the_time_of_a_timestamp_authority(tmp_path: Path) -> None:
    stamps = Timestamping(tmp_path / "timestamps")
    with Services(World(), tmp_path, stamps, rekor_version=2) as services:
        identity = Identity(token(services.claims))
        payload = signing.statement(SUBJECTS, INSTRUCTION_FILE, identity.signer)
        entry = stamps.entry({"start": "2026-01-01T00:00:00Z"})
        root = TrustRoot("root", services.world.trusted_root(timestampAuthorities=[entry]), "")
        sign_one = keyless_signing.signer(identity, root, config_of(services))
        assert keyless.identity_of(parse(sign_one(payload), "it"), root) == JOB
        assert services.asked == ["/api/v2/signingCert", "/timestamp", "/api/v2/log/entries"]
        services.fail["/timestamp"] = 500
        with pytest.raises(SigningError, match="logged the signature, but no timestamp authority gave it a time"):
            sign_one(payload)


# ---- refusals


def test_where_nobody_vouches_for_a_job_the_user_is_told_what_would(services: Services) -> None:
    with pytest.raises(UsageError, match=r"nobody vouches for who runs this: .*id-token: write.*nono trust keygen"):
        keyless_signing.ambient()
    assert services.asked == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"GITHUB_ACTIONS": "true"}, "permissions: id-token: write"),
        ({"GITLAB_CI": "true"}, "SIGSTORE_ID_TOKEN"),
        ({"GITLAB_CI": "true", "SIGSTORE_ID_TOKEN": "no token"}, "SIGSTORE_ID_TOKEN"),
    ],
)
def test_a_job_that_may_not_ask_is_told_what_it_lacks(
    services: Services, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    enter(monkeypatch, environment)
    with pytest.raises(UsageError, match=words):
        keyless_signing.ambient()


@pytest.mark.parametrize(
    "changes", [{"aud": "another"}, {"exp": 1_700_000_000}, {"nbf": 9_999_999_999}, {"iss": None}, {"sub": None}]
)
def test_a_token_that_is_not_for_sigstore_is_refused(changes: dict[str, object]) -> None:
    claims = {name: value for name, value in github_claims(**changes).items() if value is not None}
    with pytest.raises(UsageError, match="is not for Sigstore, or not valid any more"):
        Identity(token(claims))


@pytest.mark.parametrize("status", [400, 403, 429, 500])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v2/signingCert", "Fulcio (http://127.0.0.1:{port}) gave no certificate: it answered {status}"),
        ("/api/v1/log/entries", "Rekor (http://127.0.0.1:{port}) did not log the signature: it answered {status}"),
    ],
)
def test_a_service_that_refuses_is_named(services: Services, path: str, words: str, status: int) -> None:
    services.fail[path] = status
    with pytest.raises(SigningError) as raised:
        sign(services, Identity(token(services.claims)))
    assert str(raised.value) == words.format(port=services.url.rpartition(":")[2], status=status)


def test_a_service_that_is_not_there_is_named(services: Services, tmp_path: Path) -> None:
    with Services(World(), tmp_path) as gone:
        root, config = root_of(gone), config_of(gone)
    with pytest.raises(SigningError, match=r"gave no certificate: it cannot be reached$"):
        keyless_signing.signer(Identity(token(services.claims)), root, config)


def test_a_service_that_keeps_silent_is_not_waited_for_for_ever(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyless_signing, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        services.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SigningError, match=r"gave no certificate: it cannot be reached$"):
            sign(services, Identity(token(services.claims)))


def test_what_does_not_verify_is_not_handed_out(services: Services) -> None:
    root = root_of(services)
    services.world.rekor_key = new_key()
    identity = Identity(token(services.claims))
    sign_one = keyless_signing.signer(identity, root, config_of(services))
    with pytest.raises(BundleError, match="what Fulcio and Rekor made is in a log that the root does not name"):
        sign_one(signing.statement(SUBJECTS, INSTRUCTION_FILE, identity.signer))


def test_a_certificate_that_no_log_has_seen_is_not_used(services: Services) -> None:
    root = root_of(services)
    services.world.ct_key = new_key()
    with pytest.raises(SigningError, match="gave no certificate"):
        keyless_signing.signer(Identity(token(services.claims)), root, config_of(services))
    assert services.asked == ["/api/v2/signingCert"]


@pytest.mark.parametrize(
    "url", ["http://fulcio.example", "http://127.0.0.1.example", "ftp://127.0.0.1", "http://user@example.com:80/"]
)
def test_a_token_goes_nowhere_in_the_clear(services: Services, url: str) -> None:
    config = json.loads(services.signing_config)
    config["caUrls"][0]["url"] = url
    signing_config = SigningConfig("signing_config.json", json.dumps(config).encode())
    with pytest.raises(UsageError, match="only https is safe for a token"):
        keyless_signing.signer(Identity(token(services.claims)), root_of(services), signing_config)
    assert services.asked == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{", b'{"mediaType": "another"}'])
def test_what_is_no_signing_configuration_is_refused(services: Services, data: bytes) -> None:
    with pytest.raises(UsageError, match=r"^signing_config\.json "):
        keyless_signing.signer(
            Identity(token(services.claims)), root_of(services), SigningConfig("signing_config.json", data)
        )
    with pytest.raises(PolicyError, match=r"^trusted_root\.json"):
        keyless_signing.signer(
            Identity(token(services.claims)), TrustRoot("trusted_root.json", data, ""), config_of(services)
        )


def test_the_token_is_in_no_message_and_no_repr(
    services: Services, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = token(services.claims)
    identity = Identity(secret)
    said = [repr(identity), str(identity)]
    for path in ("/token", "/api/v2/signingCert", "/api/v1/log/entries"):
        services.fail = {path: 403}
        enter(monkeypatch, services.github())
        with pytest.raises((UsageError, SigningError)) as raised:
            sign(services, keyless_signing.ambient())
        error: BaseException | None = raised.value
        assert error is not None
        assert error.__cause__ is None
        assert error.__suppress_context__
        said += [str(error), repr(error)]
    said += capfd.readouterr()
    for part in (secret, *secret.split(".")[1:], "the job's own"):
        assert all(part not in text for text in said)
