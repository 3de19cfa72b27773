"""A log that its run signs: what verify says of it, of another key, another session's signature, and a changed log."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nono.kernel import secretmem
from nono.trust import bundle, keys, signing
from tests import memscan
from tests.keyring_service import KeyringService
from tests.runs import Site, unfolded

pytest.importorskip("cryptography")


@pytest.fixture
def key(site: Site) -> str:
    """A key of the user's in a file, as `nono trust keygen` makes it; its reference."""
    reference = f"file://{site.vault}/signing.pem"
    made = site.nono(["trust", "keygen", "--keyref", reference])
    assert made.returncode == 0, made.stderr
    return reference


def run(site: Site, key: str, *flags: str) -> Path:
    """Run something that ends with 3, and return its log."""
    before = set((site.state / "audit").glob("*.jsonl"))
    done = site.run(["--block-net", "--allow-cwd", "--audit-sign-key", key, *flags], ["sh", "-c", "exit 3"])
    assert done.returncode == 3, done.stderr
    assert "the audit log" not in done.stderr
    (log,) = set((site.state / "audit").glob("*.jsonl")) - before
    return log


@contextmanager
def running(site: Site, key: str, then: str = "exit", **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start something that waits for a line."""
    script = f"echo ready; read line; {then}"
    with site.start(
        ["--block-net", "--allow-cwd", "--audit-sign-key", key], ["sh", "-c", script], **options
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def signature_of(log: Path) -> Path:
    return log.with_name(f"{log.name}.bundle")


def faults(site: Site, *flags: str) -> list[tuple[str, str]]:
    done = site.nono(["audit", "verify", "--json", *flags])
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == int(bool(told["faults"]))
    return [(fault["what"], fault["detail"]) for fault in told["faults"]]


def public_key(site: Site, private: bytes) -> str:
    file = site.work / "key.pub"
    file.write_text(keys.pem(keys.public_of(private)))
    return str(file)


def private_key(key: str) -> bytes:
    return keys.load_private(Path(key.removeprefix("file://")).read_bytes())


def test_a_signed_log_is_said_to_be(site: Site, key: str) -> None:
    log = run(site, key)
    checked = site.nono(["audit", "verify"])
    assert checked.returncode == 0, checked.stdout
    assert f"signed 1 by {key}" in unfolded(checked.stdout)
    told = json.loads(site.nono(["audit", "verify", "--json"]).stdout)
    assert told["sessions"][0]["signed_by"] == key
    assert not faults(site, "--public-key", public_key(site, private_key(key)))
    (own,) = (site.home / ".config/nono/trust").glob("*.pub")
    assert not faults(site, "--public-key", str(own))
    found = bundle.parse(signature_of(log).read_bytes(), "x")
    ledger = json.loads((log.parent / "ledger").read_text().splitlines()[-2])
    assert found.statement.predicate["records"] == ledger["records"] == 2
    assert found.statement.predicate["last"] == ledger["last"]
    assert found.statement.predicate_type == "https://nono.sh/attestation/audit-log/v1"
    assert signature_of(log).stat().st_mode & 0o777 == 0o600
    assert json.loads(log.read_text().splitlines()[0])["signed_by"] == found.hint


def remove(log: Path, other: Path) -> None:
    signature_of(log).unlink()


def of_another(log: Path, other: Path) -> None:
    signature_of(log).write_bytes(signature_of(other).read_bytes())


def change_the_log(log: Path, other: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"status":3', b'"status":0'))


def change_the_statement(log: Path, other: Path) -> None:
    told = json.loads(signature_of(log).read_text())
    payload = base64.b64decode(told["dsseEnvelope"]["payload"]).replace(b'"records":2', b'"records":3')
    told["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signature_of(log).write_text(json.dumps(told))


def write_nonsense(log: Path, other: Path) -> None:
    signature_of(log).write_bytes(b'{"mediaType":')


@pytest.mark.parametrize(
    ("do", "what", "detail"),
    [
        (remove, "not signed", "its signature is gone"),
        (of_another, "other session", "this is the signature of {other}"),
        (change_the_log, "changed", "the log is not the one that was signed, which had 2 records"),
        (change_the_statement, "bad signature", "its signature was changed, or made for something else"),
        (write_nonsense, "bad signature", "its signature is not JSON: line 1, column 14: expecting value"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_wrong_is_named(site: Site, key: str, do: Callable[[Path, Path], None], what: str, detail: str) -> None:
    log, other = run(site, key), run(site, key)
    do(log, other)
    for flags in ([], ["--public-key", public_key(site, private_key(key))]):
        found = [fault for fault in faults(site, *flags) if "record 2 is not" not in fault[1]]
        assert found == [(what, detail.replace("{other}", other.name))]


def test_a_key_in_pem_signs_as_well(site: Site, key: str) -> None:
    file = Path(key.removeprefix("file://"))
    text = base64.b64encode(private_key(key)).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    file.write_text(f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
    run(site, key)
    assert not faults(site, "--public-key", public_key(site, private_key(key)))


def test_a_file_with_lines_is_no_credential_of_a_route_for_that(site: Site, key: str) -> None:
    """What goes into a header has one line, whatever else the file is for."""
    file = Path(key.removeprefix("file://"))
    file.write_text("a\r\nX-Evil: b\r\nc")
    flags = ["--profile", str(site.profile({"openai": key})), "--allow-cwd", "--audit-sign-key", key]
    done = site.run(flags, ["true"])
    assert (done.returncode, "contains a line break" in unfolded(done.stderr)) == (1, True)


def test_another_key_is_the_wrong_one(site: Site, key: str) -> None:
    run(site, key)
    stranger = keys.generate()
    ((what, detail),) = faults(site, "--public-key", public_key(site, stranger))
    assert (what, "not that of --public-key" in detail, key in detail) == ("wrong key", True, True)
    for file in (site.home / ".config/nono/trust").glob("*.pub"):
        file.unlink()
    ((what, detail),) = faults(site)
    assert (what, "not one of yours" in detail) == ("wrong key", True)


def test_one_of_the_users_other_keys_is_the_wrong_one_too(site: Site, key: str) -> None:
    """One may be at hand, and the other not: so the log says by which it is to be signed."""
    log = run(site, key)
    other = f"file://{site.vault}/other.pem"
    assert site.nono(["trust", "keygen", "--keyref", other]).returncode == 0
    found = bundle.parse(signature_of(log).read_bytes(), "x")
    signature_of(log).write_bytes(signing.sign(found.payload, private_key(other)))
    ((what, detail),) = faults(site)
    assert (what, "its start names the key" in detail) == ("wrong key", True)


def test_a_signature_that_is_no_file_is_named(site: Site, key: str) -> None:
    log, _ = run(site, key), run(site, key)
    signature_of(log).unlink()
    signature_of(log).symlink_to("/nonexistent")
    assert faults(site) == [("bad signature", "its signature is no file: it is a link")]


def test_with_a_public_key_every_log_has_to_be_signed(site: Site, key: str) -> None:
    run(site, key)
    site.run(["--block-net", "--allow-cwd"], ["true"])
    assert not faults(site)
    assert faults(site, "--public-key", public_key(site, private_key(key))) == [("not signed", "no key has signed it")]


def test_a_log_that_was_sealed_anew_has_no_signature(site: Site, key: str) -> None:
    """Somebody with the user's own rights, but without his key, writes everything anew: the chain is good, and so is
    the ledger."""
    log = run(site, key)
    public = public_key(site, private_key(key))
    for file in (log, log.parent / "ledger"):
        file.unlink()
    again = site.run(["--block-net", "--allow-cwd"], ["true"])
    assert again.returncode == 0
    signature_of(log).rename(signature_of(next(log.parent.glob("*.jsonl"))))
    assert [what for what, _ in faults(site, "--public-key", public)] == ["other session"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("hunter2", "not a private key that nono can use"),
        (base64.b64encode(b"x" * 100).decode(), "not a private key that nono can use"),
    ],
    ids=["missing", "a word", "base64"],
)
def test_what_is_no_key_is_refused_before_anything_starts(site: Site, content: str | None, said: str) -> None:
    file = site.vault / "no.pem"
    if content is not None:
        file.touch(0o600)
        file.write_text(content)
    done = site.run(["--block-net", "--allow-cwd", "--audit-sign-key", f"file://{file}"], ["touch", "started"])
    assert done.returncode in (1, 2)
    assert said in unfolded(done.stderr) or "no credential file" in unfolded(done.stderr)
    assert "hunter2" not in done.stderr
    assert not (site.work / "started").exists()
    assert not list((site.state / "audit").glob("*.jsonl"))


def test_a_key_in_the_place_of_its_name_is_not_repeated(site: Site, key: str) -> None:
    text = base64.b64encode(private_key(key)).decode()
    done = site.run(["--block-net", "--allow-cwd", "--audit-sign-key", text], ["true"])
    assert done.returncode == 2
    assert text[:20] not in done.stderr
    assert "keystore://ID or file:///PATH" in unfolded(done.stderr)


def test_the_agent_cannot_read_the_key(site: Site, key: str) -> None:
    file = key.removeprefix("file://")
    done = site.run(
        ["--block-net", "--allow-cwd", "--allow", str(site.vault), "--audit-sign-key", key], ["sh", "-c", f"cat {file}"]
    )
    assert "Permission denied" in done.stderr
    assert done.stdout == ""


def test_a_signature_that_cannot_be_written_is_told_and_changes_no_status(site: Site, key: str) -> None:
    with running(site, key, "exit 5") as process:
        (log,) = (site.state / "audit").glob("*.jsonl")
        signature_of(log).mkdir()
        _, stderr = process.communicate(b"\n")
    assert process.returncode == 5
    assert "is not signed: Is a directory" in unfolded(stderr.decode())
    signature_of(log).rmdir()
    checked = site.nono(["audit", "verify"])
    assert (checked.returncode, "it was to be signed, and is not" in unfolded(checked.stdout)) == (0, True)
    assert sorted(each.name for each in log.parent.iterdir()) == [log.name, "ledger"]


def test_a_killed_run_is_not_signed_and_that_is_no_fault(site: Site, key: str) -> None:
    with running(site, key) as process:
        assert not faults(site)
        process.send_signal(signal.SIGKILL)
    assert not faults(site)
    assert faults(site, "--public-key", public_key(site, private_key(key))) == [("not signed", "no key has signed it")]


def test_without_the_library_it_is_said(site: Site, key: str, tmp_path: Path) -> None:
    run(site, key)
    library = tmp_path / "libraries" / "cryptography"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("raise ImportError")
    without = {"PYTHONPATH": str(library.parent)}
    checked = site.nono(["audit", "verify"], environment=without)
    assert (checked.returncode, "signatures were not looked at" in unfolded(checked.stdout)) == (0, True)
    assert "pip install 'nono[trust]'" in unfolded(checked.stdout)
    public = public_key(site, private_key(key))
    assert site.nono(["audit", "verify", "--public-key", public], environment=without).returncode == 2
    done = site.run(["--block-net", "--allow-cwd", "--audit-sign-key", key], ["true"], environment=without)
    assert (done.returncode, "pip install 'nono[trust]'" in unfolded(done.stderr)) == (2, True)


def test_a_key_of_the_keystore_signs(site: Site, keyring: KeyringService, desktop: dict[str, str]) -> None:
    environment = dict(desktop)
    none = ["--block-net", "--allow-cwd", "--audit-sign-key", "keystore://none-such"]
    done = site.run(none, ["true"], environment=environment)
    assert (done.returncode, "nono trust keygen --id none-such" in unfolded(done.stderr)) == (1, True)
    done = site.run(none, ["true"])
    assert (done.returncode, "nono trust keygen --keyref file:///PATH" in unfolded(done.stderr)) == (1, True)
    made = site.nono(["trust", "keygen", "--id", "audit"], environment=environment)
    assert made.returncode == 0, made.stderr
    done = site.run(
        ["--block-net", "--allow-cwd", "--audit-sign-key", "keystore://audit"], ["true"], environment=environment
    )
    assert done.returncode == 0, done.stderr
    assert "signed 1 by audit" in unfolded(site.nono(["audit", "verify"]).stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the supervisor's memory")
def test_the_supervisor_holds_the_key_once(site: Site, key: str) -> None:
    """As text, in locked memory; what the library makes of it is in a process that is gone."""
    text = Path(key.removeprefix("file://")).read_bytes().strip()
    with running(site, key, environment={"NONO_SECRET_MEMORY": secretmem.MLOCK}) as process:
        time.sleep(0.2)
        copies = memscan.scan(process.pid, text)
        assert (copies.full, copies.partial) == (1, 0)
        secret = private_key(key)[36:68]  # the number itself, behind the head of PKCS#8
        assert memscan.scan(process.pid, secret)[:2] == (0, 0)
        process.communicate(b"\n")
    assert process.returncode == 0
