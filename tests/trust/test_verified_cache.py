"""What is remembered of verified signatures: exactly what verification said, in files that only the user can write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.trust import signing, verified_cache
from nono.trust.bundle import INSTRUCTION_FILE, Bundle
from nono.trust.errors import BAD_SIGNATURE, BundleError
from nono.trust.policy import Keyless
from nono.trust.trusted_root import TrustRoot
from tests.trust.sigstore_world import World, read

WHO = Keyless("https://issuer.test", "acme/skills", ".github/workflows/é.yml", "refs/heads/main", "", "ada@example.com")
ROOT = TrustRoot("trusted_root.json", b"{}", "4.5")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read(World().bundle(signing.statement([("SKILL.md", "0" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})))


class Verifier:
    """Stands for keyless.identity_of, and counts."""

    def __init__(self, who: Keyless = WHO) -> None:
        self.who = who
        self.asked = 0

    def __call__(self, bundle: Bundle, root: TrustRoot) -> Keyless:
        self.asked += 1
        return self.who


def entries(state: Path) -> list[Path]:
    return sorted((state / "trust" / "verified").iterdir())


def test_verifies_once(tmp_path: Path, bundle: Bundle) -> None:
    verify = Verifier()
    for _ in range(3):
        assert verified_cache.identity_of(str(tmp_path / "state"), bundle, ROOT, verify) == WHO
    assert verify.asked == 1


@pytest.mark.parametrize(
    ("other_bundle", "other_root"),
    [
        (lambda bundle: bundle._replace(raw=bundle.raw + b" "), ROOT),
        (lambda bundle: bundle, ROOT._replace(data=b"{ }")),
        (lambda bundle: bundle, ROOT._replace(library="4.6")),
    ],
)
def test_another_bundle_root_or_verifier_is_verified_anew(
    tmp_path: Path, bundle: Bundle, other_bundle: Callable[[Bundle], Bundle], other_root: TrustRoot
) -> None:
    verify = Verifier()
    verified_cache.identity_of(str(tmp_path), bundle, ROOT, verify)
    verify.who = WHO._replace(repository="acme/others")
    assert verified_cache.identity_of(str(tmp_path), other_bundle(bundle), other_root, verify) == verify.who
    assert verified_cache.identity_of(str(tmp_path), bundle, ROOT, verify) == WHO
    assert verify.asked == 2


def test_what_did_not_verify_is_not_remembered(tmp_path: Path, bundle: Bundle) -> None:
    def refuse(bundle: Bundle, root: TrustRoot) -> Keyless:
        raise BundleError(BAD_SIGNATURE, bundle.source, "is wrong")

    for _ in range(2):
        with pytest.raises(BundleError):
            verified_cache.identity_of(str(tmp_path), bundle, ROOT, refuse)
    assert not (tmp_path / "trust").exists()


def test_only_the_user_can_write_or_read_it(tmp_path: Path, bundle: Bundle) -> None:
    old = os.umask(0)
    try:
        verified_cache.identity_of(str(tmp_path / "state"), bundle, ROOT, Verifier())
    finally:
        os.umask(old)
    (entry,) = entries(tmp_path / "state")
    assert entry.stat().st_mode & 0o777 == 0o600
    for directory in (entry.parent, entry.parent.parent, entry.parent.parent.parent):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_damaged_entry_is_ignored_and_written_anew(tmp_path: Path, bundle: Bundle) -> None:
    verified_cache.identity_of(str(tmp_path), bundle, ROOT, Verifier())
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    forged = whole.replace(b"acme/skills", b"evil/skills")
    identity = json.loads(whole)["identity"]
    others = [forged, whole[:-5], b"", b"{}", b"[]", b"\xff", b"[" * 9000, whole + b" ", json.dumps(identity).encode()]
    for damaged in (*others, whole.replace(b'"san": "ada', b'"sna": "ada')):
        entry.write_bytes(damaged)
        verify = Verifier()
        assert verified_cache.identity_of(str(tmp_path), bundle, ROOT, verify) == WHO
        assert verify.asked == 1, damaged
        assert entry.read_bytes() == whole


def test_every_flipped_bit_is_noticed(tmp_path: Path, bundle: Bundle) -> None:
    verified_cache.identity_of(str(tmp_path), bundle, ROOT, Verifier())
    (entry,) = entries(tmp_path)
    whole = bytearray(entry.read_bytes())
    for at in range(len(whole)):
        whole[at] ^= 1 << (at % 8)
        entry.write_bytes(whole)
        verify = Verifier()
        verified_cache.identity_of(str(tmp_path), bundle, ROOT, verify)
        assert verify.asked == 1, at
        whole[at] ^= 1 << (at % 8)


def test_the_entry_of_another_bundle_is_not_taken_for_it(tmp_path: Path, bundle: Bundle) -> None:
    other = bundle._replace(raw=bundle.raw + b" ")
    verified_cache.identity_of(str(tmp_path), bundle, ROOT, Verifier())
    (first,) = entries(tmp_path)
    verified_cache.identity_of(str(tmp_path), other, ROOT, Verifier())
    (second,) = (entry for entry in entries(tmp_path) if entry != first)
    second.write_bytes(first.read_bytes())
    verify = Verifier()
    verified_cache.identity_of(str(tmp_path), other, ROOT, verify)
    assert verify.asked == 1


def lead_away(cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to("elsewhere")


def lead_the_entry_away(cache: Path) -> None:
    (entry,) = cache.iterdir()
    entry.rename(cache.parent / "entry")
    entry.symlink_to("../entry")


def let_others_write_the_entry(cache: Path) -> None:
    (entry,) = cache.iterdir()
    entry.chmod(0o620)


def put_a_fifo(cache: Path) -> None:
    (entry,) = cache.iterdir()
    entry.unlink()
    os.mkfifo(entry)


def put_a_directory(cache: Path) -> None:
    (entry,) = cache.iterdir()
    entry.unlink()
    entry.mkdir()


UNSAFE: dict[str, Callable[[Path], object]] = {
    "directory is a link": lead_away,
    "parent is a link": lambda cache: lead_away(cache.parent),
    "others may write the directory": lambda cache: cache.chmod(0o770),
    "others may write its parent": lambda cache: cache.parent.chmod(0o777),
    "entry is a link": lead_the_entry_away,
    "others may write the entry": let_others_write_the_entry,
    "entry is a fifo": put_a_fifo,
    "entry is a directory": put_a_directory,
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_others_could_have_written_is_not_believed(tmp_path: Path, bundle: Bundle, name: str) -> None:
    verified_cache.identity_of(str(tmp_path), bundle, ROOT, Verifier(WHO._replace(repository="evil/evil")))
    UNSAFE[name](tmp_path / "trust" / "verified")
    assert verified_cache.identity_of(str(tmp_path), bundle, ROOT, Verifier()) == WHO


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_entry_is_not_believed(tmp_path: Path, bundle: Bundle) -> None:
    for what in ("directory", "entry"):
        state = tmp_path / what
        verified_cache.identity_of(str(state), bundle, ROOT, Verifier(WHO._replace(repository="evil/evil")))
        (entry,) = entries(state)
        os.chown(entry if what == "entry" else entry.parent, 65534, 65534)
        assert verified_cache.identity_of(str(state), bundle, ROOT, Verifier()) == WHO


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "state").write_text("a file")
    verify = Verifier()
    for _ in range(2):
        assert verified_cache.identity_of(str(tmp_path / "state"), bundle, ROOT, verify) == WHO
    assert verify.asked == 2


def test_an_identity_that_is_too_long_is_not_kept(tmp_path: Path, bundle: Bundle) -> None:
    verify = Verifier(WHO._replace(san="x" * (33 << 10)))
    for _ in range(2):
        assert verified_cache.identity_of(str(tmp_path), bundle, ROOT, verify) == verify.who
    assert verify.asked == 2


def test_the_oldest_entries_make_room(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified_cache, "MOST_ENTRIES", 8)
    monkeypatch.setattr(verified_cache, "_KEPT_ENTRIES", 5)
    for number in range(20):
        made = bundle._replace(raw=bundle.raw + b" " * number)
        verified_cache.identity_of(str(tmp_path), made, ROOT, Verifier())
        for age, entry in enumerate(sorted(entries(tmp_path), key=lambda entry: -entry.stat().st_mtime)):
            os.utime(entry, (1e9 - age, 1e9 - age))
        assert len(entries(tmp_path)) <= 8
    verify = Verifier()
    verified_cache.identity_of(str(tmp_path), bundle._replace(raw=bundle.raw + b" " * 19), ROOT, verify)
    assert verify.asked == 0, "the newest is still there"


def test_nothing_heavy_is_imported_for_what_is_known() -> None:
    script = """
import sys
from nono.trust import bundle, trusted_root, verified_cache
trusted_root.load("/nonexistent")
print(*sorted({name.split(".")[0] for name in sys.modules} & {"sigstore", "cryptography", "pydantic", "requests"}))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("\n", "")
