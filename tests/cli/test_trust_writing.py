"""What `nono trust` writes is whole or not there, and goes where it is meant to; which key is meant, for any text."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.cli.trusts import keyref, writing
from nono.errors import StoreError, UsageError


def test_writes_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    umask = os.umask(0o777)
    try:
        writing.write(str(path), b"secret", mode=writing.PRIVATE, over=False)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.read_bytes() == b"secret"
    assert os.listdir(tmp_path) == ["key"]


def test_replaces_only_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        writing.write(str(path), b"new", mode=writing.PRIVATE, over=False)
    assert path.read_text() == "old"
    writing.write(str(path), b"new", mode=writing.PRIVATE, over=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["key"]


def test_another_name_of_the_old_file_keeps_its_contents(tmp_path: Path) -> None:
    path, other = tmp_path / "a.bundle", tmp_path / "other"
    path.write_text("old")
    os.link(path, other)
    writing.write(str(path), b"new", mode=writing.SHARED, over=True)
    assert other.read_text() == "old"


def test_one_that_came_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    link = os.link

    def late(*arguments: object, **options: object) -> None:
        path.write_text("somebody's")
        link(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError):
        writing.write(str(path), b"new", mode=writing.PRIVATE, over=False)
    assert path.read_text() == "somebody's"
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("over", [False, True])
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, over: bool) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(StoreError, match="key cannot be written: File too large"):
            writing.write(str(tmp_path / "key"), b"x" * 100, mode=writing.PRIVATE, over=over)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "a" * 300, "b\0c", "none/key"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises((StoreError, ValueError)):
        writing.write(f"{tmp_path}/{name}", b"x", mode=writing.SHARED, over=True)
    assert os.listdir(tmp_path) == []


TEXT = st.text(max_size=200)
REFERENCES = st.one_of(TEXT, TEXT.map(lambda text: f"file:///{text}"), TEXT.map(lambda text: f"keystore://{text}"))


@given(st.none() | REFERENCES, st.none() | REFERENCES)
def test_any_text_is_a_key_or_a_mistake(key_id: str | None, reference: str | None) -> None:
    try:
        found = keyref.chosen("--key", key_id, reference)
    except UsageError:
        return
    assert found.key_id.isprintable()
    assert found == keyref.of(found.key_id)
    if found.path:
        assert os.path.normpath(found.path) == found.path
        assert found.path.startswith("/")
    else:
        assert set(found.key_id) <= keyref._LETTERS


@given(st.text(alphabet="ABCDEFabcdef0123456789+/=", min_size=129, max_size=300).map(lambda text: f"M{text}"))
def test_what_may_be_a_key_is_not_quoted(pasted: str) -> None:
    for arguments in ((None, pasted), (pasted, None)):
        with pytest.raises(UsageError) as caught:
            keyref.chosen("--key", *arguments)
        assert pasted not in str(caught.value)
