"""Which trusted root counts, and who may have written it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nono.errors import PolicyError, UsageError
from nono.trust import trusted_root
from tests.trust.sigstore_world import World, log_id, new_key


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config" / "trust").mkdir(parents=True)
    return tmp_path / "config"


def test_the_copy_in_the_package_counts_where_there_is_no_other(config: Path) -> None:
    root = trusted_root.load(str(config))
    assert root.source == "trusted_root.json of the package sigstore"
    assert {log["baseUrl"] for log in trusted_root.parse(root)["tlogs"]} >= {"https://rekor.sigstore.dev"}
    signing = trusted_root.load_signing(str(config))
    assert b"https://fulcio.sigstore.dev" in signing.data


def test_the_users_own_counts_before_it_and_the_one_he_names_before_both(config: Path, tmp_path: Path) -> None:
    own, named = config / "trust" / "trusted_root.json", tmp_path / "named.json"
    own.write_bytes(b"{}")
    own.chmod(0o644)
    named.write_bytes(b"[]")
    named.chmod(0o666)
    assert trusted_root.load(str(config)) == (str(own), b"{}", trusted_root.load("/nonexistent").library)
    assert trusted_root.load(str(config), str(named)).source == str(named)
    (config / "trust" / "signing_config.json").write_bytes(b"{}")
    assert trusted_root.load_signing(str(config)).source == str(config / "trust" / "signing_config.json")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_one_that_somebody_else_could_have_written_is_refused(config: Path, mode: int) -> None:
    own = config / "trust" / "trusted_root.json"
    own.write_bytes(b"{}")
    own.chmod(mode)
    with pytest.raises(PolicyError, match=r"somebody else could have written .*; if it is yours: chmod go-w "):
        trusted_root.load(str(config))


def test_one_with_another_name_or_in_a_directory_of_all_is_refused(config: Path, tmp_path: Path) -> None:
    own, elsewhere = config / "trust" / "trusted_root.json", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"{}")
    own.symlink_to(elsewhere)
    with pytest.raises(PolicyError, match="is a link, and says whom you trust; put the file itself there"):
        trusted_root.load(str(config))
    own.unlink()
    os.link(elsewhere, own)
    with pytest.raises(PolicyError, match="has a second name"):
        trusted_root.load(str(config))
    elsewhere.unlink()
    assert trusted_root.load(str(config)).source == str(own)
    (config / "trust").chmod(0o777)
    with pytest.raises(PolicyError, match=r"somebody else could have written .*/trust; if it is yours"):
        trusted_root.load(str(config))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_is_refused(config: Path) -> None:
    own = config / "trust" / "trusted_root.json"
    own.write_bytes(b"{}")
    os.chown(own, 65534, 65534)
    with pytest.raises(PolicyError, match="somebody else could have written"):
        trusted_root.load(str(config))


def test_what_cannot_be_read_is_named(config: Path, tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(b" " * (trusted_root.MOST_BYTES + 1))
    for path, words in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "is not a regular file"),
        (fifo, "is not a regular file"),
        (large, "is larger than 1 MiB"),
    ):
        with pytest.raises(UsageError, match=words):
            trusted_root.load(str(config), str(path))


def test_without_the_package_the_user_is_told_how_to_get_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(UsageError, match=r"need the package sigstore: pip install 'nono\[trust\]'"):
        trusted_root.load(str(config))


def test_what_a_verification_depends_on_is_in_the_digest(config: Path) -> None:
    root = trusted_root.load(str(config))
    same = root._replace(source="another name")
    others = [root._replace(data=root.data + b" "), root._replace(library="")]
    assert same.digest == root.digest
    assert len({root.digest, *(other.digest for other in others)}) == 3


def test_both_ends_of_a_time_count() -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    log = {"publicKey": {"validFor": {"start": "2026-01-01T00:00:00.000Z", "end": "2026-02-01T00:00:00Z"}}}
    before, after = (when.replace(year=year) for when, year in ((start, 2025), (end, 2027)))
    assert trusted_root.believed(log, [start, end])
    assert not trusted_root.believed(log, [start, after])
    assert not trusted_root.believed(log, [before])
    assert not trusted_root.believed({"validFor": {"end": "2026-02-01T00:00:00Z"}}, [start])
    assert trusted_root.believed({"validFor": {"start": "2026-01-01T00:00:00Z"}}, [after])


def test_a_log_is_known_by_what_the_root_calls_it_or_by_its_key() -> None:
    world, key = World(), new_key()
    log = world.log(key, {})
    named = log | {"logId": {"keyId": "bmFtZWQ="}}
    for key_id in (b"named", log_id(key)):
        assert trusted_root.logs({"tlogs": [world.log(new_key(), {}), named]}, "tlogs", key_id) == [named]
    assert trusted_root.logs({"tlogs": [log]}, "tlogs", b"") == []
