"""Signing keys: in a real Secret Service, in files; what refuses them, and what is lost when one is replaced."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.trust import keys
from tests.cli.signer import WITHOUT_KEYSTORE, Signer
from tests.credentials.conftest import started
from tests.keyring_service import KeyringService


@pytest.fixture(scope="module")
def service() -> Iterator[KeyringService]:
    yield from started()


@pytest.fixture
def user(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def desktop(service: KeyringService, tmp_path: Path) -> Signer:
    subprocess.run(["secret-tool", "clear", "service", "nono-trust"], env=service.environment(), check=False)
    bus = {"DBUS_SESSION_BUS_ADDRESS": service.address, "XDG_RUNTIME_DIR": str(service.directory)}
    return Signer(tmp_path, bus)


def stored(service: KeyringService, key_id: str = "default") -> bytes | None:
    return service.lookup("service", "nono-trust", "username", key_id)


def openssl_key(curve: str) -> bytes:
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    return subprocess.run(command, capture_output=True, check=True).stdout


# The keystore.


def test_a_key_in_the_keystore(desktop: Signer, service: KeyringService) -> None:
    said = desktop.done("keygen").said
    assert "in the Secret Service" in said
    assert "~/.config/nono/trust/default.pub" in said
    text = stored(service)
    assert text is not None
    private = keys.load_private(text)
    assert base64.b64decode(text, validate=True) == private  # PKCS#8 DER, as the existing tool stores it
    assert keys.fingerprint(keys.public_of(private)) in said
    assert service.lookup("service", "nono-trust", "username", "default", "target", "default") == text
    assert desktop.done("export-key").out.strip() == base64.b64encode(keys.public_of(private)).decode()
    desktop.write("SKILL.md")
    desktop.done("init", "--include", "SKILL.md")
    desktop.done("sign-policy")
    desktop.done("sign", "--all")
    assert "verified SKILL.md (default)" in desktop.done("verify", "--all").said


def test_verifying_and_exporting_ask_no_keystore(desktop: Signer) -> None:
    desktop.done("keygen")
    desktop.write("SKILL.md")
    desktop.done("init", "--include", "SKILL.md")
    desktop.done("sign-policy")
    desktop.done("sign", "--all")
    desktop.environment.update(WITHOUT_KEYSTORE)
    assert desktop.done("verify", "--all").status == 0
    assert desktop.done("export-key").out
    done = desktop.trust("sign", "SKILL.md")
    assert done.status == 1
    assert "no D-Bus session bus" in done.wrong


def test_several_keys(desktop: Signer, service: KeyringService) -> None:
    desktop.done("keygen", "--id", "work")
    desktop.write("SKILL.md")
    assert "signed" in desktop.done("sign", "SKILL.md").said  # the only one there is
    desktop.done("keygen", "--keyref", "keystore://home")
    done = desktop.trust("sign", "SKILL.md")
    assert done.status == 1
    assert "no signing key 'default'" in done.wrong
    done = desktop.trust("init", "--include", "SKILL.md")
    assert "you have home, work" in done.wrong
    assert "did you mean work?" in desktop.trust("export-key", "--id", "wrok").wrong
    desktop.done("sign", "SKILL.md", "--key", "work")
    desktop.done("sign", "SKILL.md", "--keyref", "keystore://home")
    assert stored(service, "home") != stored(service, "work")


def test_a_key_is_replaced_only_by_force(desktop: Signer, service: KeyringService) -> None:
    desktop.done("keygen")
    before = stored(service)
    done = desktop.trust("keygen")
    assert done.status == 2
    assert "lost for good" in done.wrong
    assert "until you sign them again" in done.wrong
    assert stored(service) == before
    desktop.write("SKILL.md")
    desktop.done("init", "--include", "SKILL.md")
    desktop.done("sign-policy")
    desktop.done("keygen", "--force")
    assert stored(service) != before
    done = desktop.trust("list")
    assert done.status == 1
    assert "trust-policy.json" in done.wrong


def test_a_public_half_alone_is_not_replaced_unasked(desktop: Signer, service: KeyringService) -> None:
    desktop.done("keygen")
    public = desktop.done("export-key").out
    subprocess.run(["secret-tool", "clear", "service", "nono-trust"], env=service.environment(), check=True)
    done = desktop.trust("keygen")
    assert done.status == 2
    assert "whose private half is not in the Secret Service" in done.wrong
    assert desktop.done("export-key").out == public
    desktop.done("keygen", "--force")
    assert desktop.done("export-key").out != public


def test_a_key_of_another_tool_is_adopted(desktop: Signer, service: KeyringService) -> None:
    private = keys.generate()
    service.store("nono-trust", "default", base64.b64encode(private), target="default")
    done = desktop.trust("keygen")
    assert done.status == 2
    assert "nono trust keygen --id default --adopt" in done.wrong
    assert desktop.trust("export-key").status == 2
    desktop.done("keygen", "--adopt")
    assert desktop.done("export-key").out.strip() == base64.b64encode(keys.public_of(private)).decode()
    assert stored(service) == base64.b64encode(private)


def test_what_is_no_key_in_the_keystore(desktop: Signer, service: KeyringService) -> None:
    service.store("nono-trust", "default", "c2VjcmV0LXRoYXQtaXMtbm8ta2V5", target="default")
    desktop.write("SKILL.md")
    for arguments in (["sign", "SKILL.md"], ["keygen", "--adopt"]):
        done = desktop.trust(*arguments)
        assert done.status == 2
        assert "not a private key" in done.wrong
        assert "c2VjcmV0" not in done.err


def test_a_locked_keystore_says_what_else_there_is(tmp_path: Path) -> None:
    for service in started():
        bus = {"DBUS_SESSION_BUS_ADDRESS": service.address, "XDG_RUNTIME_DIR": str(service.directory)}
        user = Signer(tmp_path, bus)
        user.done("keygen")
        service.lock()
        user.write("SKILL.md")
        done = user.trust("sign", "SKILL.md")
        assert done.status == 1
        assert "locked" in done.wrong
        assert "--keyref file:///" in done.wrong


def test_headless(user: Signer) -> None:
    done = user.trust("keygen")
    assert done.status == 1
    assert f"nono trust keygen --keyref file://{user.config}/trust/default.pem" in done.wrong
    user.done("keygen", "--keyref", f"file://{user.config}/trust/default.pem")
    user.write("SKILL.md")
    assert "signed" in user.done("sign", "SKILL.md").said


# Files.


def test_a_key_in_a_file(user: Signer) -> None:
    user.keygen()
    assert user.key.stat().st_mode & 0o7777 == 0o600
    private = base64.b64decode(user.key.read_bytes().strip(), validate=True)
    assert keys.load_private(user.key.read_bytes()) == private
    public = base64.b64encode(keys.public_of(private)).decode()
    assert user.done("export-key", "--keyref", user.keyref).out.strip() == public
    assert user.done("export-key").out.strip() == public
    assert [each.name for each in user.key.parent.iterdir() if each.name.startswith(".")] == []


def test_a_key_file_is_replaced_only_by_force(user: Signer) -> None:
    user.keygen()
    before, old = user.key.read_bytes(), keys.fingerprint(user.public())
    done = user.trust("keygen", "--keyref", user.keyref)
    assert done.status == 2
    assert "lost for good" in done.wrong
    assert user.key.read_bytes() == before
    user.done("keygen", "--keyref", user.keyref, "--force")
    assert user.key.read_bytes() != before
    assert user.key.stat().st_mode & 0o7777 == 0o600
    assert not (user.key.parent / f"{old}.pub").exists()  # what cannot sign any more is not trusted any more
    assert len(list(user.key.parent.glob("*.pub"))) == 1


def by_openssl(user: Signer, curve: str) -> None:
    """Have openssl make his key."""
    user.key.parent.mkdir(parents=True, mode=0o700)
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"],
        capture_output=True,
        check=True,
    )
    user.key.touch(mode=0o600)
    user.key.write_bytes(made.stdout)


def test_a_pem_of_openssl(user: Signer) -> None:
    by_openssl(user, "P-256")
    user.write("SKILL.md")
    assert "another tool or machine" in user.trust("keygen", "--keyref", user.keyref).wrong
    user.done("keygen", "--keyref", user.keyref, "--adopt")
    user.done("sign", "SKILL.md")
    assert user.done("verify", "SKILL.md").status == 0


def test_a_key_that_is_not_ones_own_signs_but_does_not_count(user: Signer, tmp_path: Path) -> None:
    user.with_policy("*.md")
    other = tmp_path / "other.pem"
    other.touch(mode=0o600)
    other.write_bytes(base64.b64encode(keys.generate()))
    reference = f"file://{other}"
    said = user.done("sign-policy", "--keyref", reference).said
    assert f"nono trust keygen --keyref {reference} --adopt" in said
    user.write("SKILL.md")
    assert user.trust("sign", "--all").status == 1
    user.done("sign-policy")
    said = user.done("sign", "SKILL.md", "--keyref", reference).said
    assert "does not verify yet" in said
    assert user.statuses() == {"SKILL.md": "untrusted"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_a_key_file_that_others_may_read_is_refused(user: Signer, mode: int) -> None:
    user.keygen()
    user.write("SKILL.md")
    user.key.chmod(mode)
    done = user.trust("sign", "SKILL.md")
    assert done.status == 1
    assert f"chmod 600 {user.key}" in done.wrong
    assert not (user.project / "SKILL.md.bundle").exists()


def test_a_key_file_that_is_a_link(user: Signer) -> None:
    user.keygen()
    link = user.home / "link.pem"
    link.symlink_to(user.key)
    user.write("SKILL.md")
    done = user.trust("sign", "SKILL.md", "--keyref", f"file://{link}")
    assert done.status == 1
    assert "symbolic link" in done.wrong
    hard = user.home / "hard.pem"
    os.link(user.key, hard)
    assert "hard link" in user.trust("sign", "SKILL.md").wrong
    for arguments in (["--force"], []):
        done = user.trust("keygen", "--keyref", f"file://{link}", *arguments)
        assert done.status == 1
        assert "symbolic link" in done.wrong
    assert link.is_symlink()


def test_a_key_file_of_somebody_else(user: Signer) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    user.keygen()
    user.write("SKILL.md")
    os.chown(user.key, 12345, 12345)
    done = user.trust("sign", "SKILL.md")
    assert done.status == 1
    assert "another user" in done.wrong


def test_a_key_file_in_a_directory_where_others_replace_it(user: Signer) -> None:
    open_to_all = user.home / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    reference = f"file://{open_to_all}/key.pem"
    done = user.trust("keygen", "--keyref", reference)
    assert done.status == 1
    assert f"chmod go-w {open_to_all}" in done.wrong
    assert list(open_to_all.iterdir()) == []
    assert not list(user.config.rglob("*.pub"))


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "missing directory"])
def test_a_path_where_no_key_can_be(user: Signer, kind: str) -> None:
    path = user.home / "key"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path = user.home / "none" / "key"
    for flags in ([], ["--force"]):
        done = user.trust("keygen", "--keyref", f"file://{path}", *flags)
        assert done.status == 1
        assert str(path.parent) in done.wrong
    user.write("SKILL.md")
    assert user.trust("sign", "SKILL.md", "--keyref", f"file://{path}").status == 1


def test_a_key_in_the_project_is_warned_of(user: Signer) -> None:
    said = user.done("keygen", "--keyref", f"file://{user.project}/key.pem").said
    assert "an agent that may read it signs as you" in said
    assert "may read it" not in user.done("keygen", "--keyref", user.keyref).said


def test_a_key_of_another_curve(user: Signer) -> None:
    by_openssl(user, "P-384")
    done = user.trust("keygen", "--keyref", user.keyref, "--adopt")
    assert done.status == 2
    assert "P-256" in done.wrong


def test_no_room_for_the_key_leaves_the_old_one(user: Signer) -> None:
    user.keygen()
    before = user.key.read_bytes()
    user.key.parent.chmod(0o500)
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", user.key], check=False, capture_output=True)
    done = user.trust("keygen", "--keyref", user.keyref, "--force")
    if os.geteuid() == 0:
        subprocess.run(["chattr", "-i", user.key], check=False, capture_output=True)
    user.key.parent.chmod(0o700)
    if done.status == 0:
        pytest.skip("as root nothing keeps a file from being replaced here")
    assert user.key.read_bytes() == before
    assert "cannot be written" in done.wrong
