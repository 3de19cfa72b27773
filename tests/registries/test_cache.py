"""What is kept, and that nothing unsound is ever taken for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nono.registries import cache
from nono.registries.cache import Answer, Host

ANSWER = Answer((Host("mirror.example", "/etc/x"), Host("files.example:8443", "y")), True, 1000.0)


def test_returns_what_was_stored_in_a_file_of_the_user_alone(tmp_path: Path) -> None:
    state = str(tmp_path / "a/nono")
    cache.store(state, {"k": ANSWER})
    cache.store(state, {"l": ANSWER._replace(whole=False)})
    assert cache.load(state) == {"k": ANSWER, "l": ANSWER._replace(whole=False)}
    assert os.stat(cache.path(state)).st_mode & 0o777 == 0o600
    assert os.stat(state).st_mode & 0o777 == 0o700
    assert os.listdir(state) == ["registries.json"]


def test_keeps_the_newest_only(tmp_path: Path) -> None:
    cache.store(str(tmp_path), {str(number): ANSWER._replace(asked=float(number)) for number in range(100)})
    assert cache.load(str(tmp_path)).keys() == {str(number) for number in range(36, 100)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": 2, "answers": {}}',
        b'{"format": 1, "answers": []}',
        b'{"format": 1, "answers": {"k": {"hosts": [["a.example"]], "whole": true, "asked": 1}}}',
        b'{"format": 1, "answers": {"k": {"hosts": [["a b", "x"]], "whole": true, "asked": 1}}}',
        b'{"format": 1, "answers": {"k": {"hosts": [["*.example", "x"]], "whole": true, "asked": 1}}}',
        b'{"format": 1, "answers": {"k": {"hosts": [[".com", "x"]], "whole": true, "asked": 1}}}',
        b'{"format": 1, "answers": {"k": {"hosts": [["https://a.example/x", "x"]], "whole": true, "asked": 1}}}',
        b'{"format": 1, "answers": {"k": {"hosts": [], "whole": true, "asked": "never"}}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    Path(cache.path(str(tmp_path))).write_bytes(content)
    assert cache.load(str(tmp_path)) == {}
    cache.store(str(tmp_path), {"k": ANSWER})
    assert cache.load(str(tmp_path)) == {"k": ANSWER}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.floats() | st.text() | st.booleans(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_whatever_stands_in_it_does_no_harm(tmp_path: Path, answers: object) -> None:
    Path(cache.path(str(tmp_path))).write_text(
        json.dumps({"format": 1, "answers": {"k": answers, "l": {"hosts": answers}}})
    )
    assert cache.load(str(tmp_path)) == {}


def test_a_file_that_others_can_write_or_a_link_is_none(tmp_path: Path) -> None:
    state = str(tmp_path)
    cache.store(state, {"k": ANSWER})
    os.chmod(cache.path(state), 0o620)
    assert cache.load(state) == {}
    os.chmod(cache.path(state), 0o600)
    assert cache.load(state)
    os.rename(cache.path(state), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", cache.path(state))
    assert cache.load(state) == {}


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(cache.path(str(tmp_path)))
    assert cache.load(str(tmp_path)) == {}


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.store(str(tmp_path / "file/nono"), {"k": ANSWER})


def test_an_answer_with_gaps_is_asked_for_sooner(tmp_path: Path) -> None:
    now = 1e9
    assert not Answer((), True, now - cache.KEEP_S + 1).is_stale(now)
    assert Answer((), True, now - cache.KEEP_S).is_stale(now)
    assert not Answer((), False, now - cache.RETRY_S + 1).is_stale(now)
    assert Answer((), False, now - cache.RETRY_S).is_stale(now)
    assert Answer((), True, now + 60).is_stale(now), "the clock went back"


def test_an_answer_names_each_host_once_by_its_first_source() -> None:
    answer = cache.answer([Host("a.example", "x"), Host("b.example", "y"), Host("a.example", "z")], whole=True)
    assert answer.hosts == (Host("a.example", "x"), Host("b.example", "y"))
    assert abs(answer.asked - time.time()) < 60
