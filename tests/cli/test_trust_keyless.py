"""`nono trust sign --keyless` in a CI job, and verifying what it signed: Fulcio, Rekor and GitHub are on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.signer import Signer
from tests.trust.sigstore_services import Services
from tests.trust.sigstore_world import ISSUER, REF, REPOSITORY, WORKFLOW, World


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(World(), tmp_path) as made:
        yield made


@pytest.fixture
def user(services: Services, tmp_path: Path) -> Signer:
    """Someone whose policy trusts the CI, by his company's own Sigstore."""
    user = Signer(tmp_path / "user")
    user.with_policy("*.md")
    trust(user, REPOSITORY)
    root, signing = services.files()
    (user.config / "trust" / "trusted_root.json").write_bytes(Path(root).read_bytes())
    (user.config / "trust" / "signing_config.json").write_bytes(Path(signing).read_bytes())
    return user


def trust(user: Signer, repository: str) -> None:
    path = user.project / "trust-policy.json"
    made = json.loads(path.read_text())
    identity = {"issuer": ISSUER, "repository": repository, "workflow": WORKFLOW, "ref_pattern": REF}
    path.write_text(json.dumps({**made, "publishers": [{"name": "our CI", **identity}]}))
    user.done("sign-policy")


def test_a_job_signs_and_its_identity_is_verified(user: Signer, services: Services) -> None:
    user.write("A.md")
    user.write("docs/B.md")
    user.environment.update(services.github())
    said = user.done("sign", "--all", "--keyless").said
    assert "signed docs/B.md (B.md.bundle)" in said
    assert "all that the policies name (2 files)" in said
    asked = len(services.asked)
    assert "verified A.md (our CI)" in user.done("verify", "--all").said
    assert user.statuses() == {"A.md": "verified", "docs/B.md": "verified"}
    assert len(services.asked) == asked  # nobody is asked
    user.write("A.md", "changed")
    assert user.statuses()["A.md"] == "changed"
    trust(user, "somebody/else")
    assert user.statuses()["docs/B.md"] == "untrusted"


def test_one_bundle_of_a_job(user: Signer, services: Services) -> None:
    user.write("A.md")
    user.write("docs/B.md")
    user.environment.update(services.github())
    user.done("sign", "--all", "--keyless", "--multi-subject")
    assert user.statuses() == {"A.md": "verified", "docs/B.md": "verified"}


def test_a_trusted_root_by_its_name(user: Signer, services: Services, tmp_path: Path) -> None:
    user.write("A.md")
    user.environment.update(services.github())
    user.done("sign", "A.md", "--keyless")
    own = user.config / "trust" / "trusted_root.json"
    own.rename(user.project / "root.json")
    assert user.statuses()["A.md"] in ("bad_signature", "untrusted", "malformed")  # by the public Sigstore
    assert user.done("verify", "A.md", "--trusted-root", "root.json").status == 0
    assert user.trust("verify", "A.md", "--trusted-root", "none.json").status == 2
    (user.project / "no.json").write_text("[]")
    assert user.trust("verify", "A.md", "--trusted-root", "no.json").status == 2
    other = tmp_path / "other.json"
    other.write_bytes(World().trusted_root())
    assert user.trust("verify", "A.md", "--trusted-root", str(other)).status == 1


def test_who_is_nobody_signs_with_a_key(user: Signer) -> None:
    user.write("A.md")
    done = user.trust("sign", "--all", "--keyless")
    assert done.status == 2
    assert "nono trust keygen" in done.wrong
    assert not (user.project / "A.md.bundle").exists()


def test_a_service_that_fails_is_asked_once(user: Signer, services: Services) -> None:
    for name in "ABCDEF":
        user.write(f"{name}.md")
    user.environment.update(services.github())
    (path,) = {path for path in asked(user, services) if "log" in path}
    services.fail[path] = 500
    services.asked.clear()
    done = user.trust("sign", "A.md", "B.md", "C.md", "D.md", "E.md", "F.md", "--keyless")
    assert done.status == 1
    assert done.said.count("refused") == 6
    assert services.asked.count(path) < 6
    token = services.github().get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
    assert token
    assert token not in done.out + done.err


def asked(user: Signer, services: Services) -> list[str]:
    """Return what is asked for one signature."""
    services.asked.clear()
    user.done("sign", "A.md", "--keyless")
    return list(services.asked)
