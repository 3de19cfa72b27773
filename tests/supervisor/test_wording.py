"""What programs say when something is denied them: their lines, word for word, and the path that is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.policy.capabilities import READ, WRITE
from nono.supervisor.complaints import LINE_BYTES, MAX_LINES, SIGNS, Complaints
from nono.supervisor.wording import attempts

LINES = [
    ("cat: /x/y: Permission denied", [("/x/y", 0)]),
    ("bash: line 1: /x/y z: Permission denied", [("/x/y z", 0)]),
    ("/usr/bin/bash: line 1: /x/y: Permission denied", [("/x/y", 0)]),
    ("sh: 1: cannot create /x/y: Permission denied", [("/x/y", WRITE)]),
    ("ls: cannot open directory '/x/y': Permission denied", [("/x/y", READ)]),
    ("touch: cannot touch ‘/x/y’: Read-only file system", [("/x/y", WRITE)]),
    ("mkdir: cannot create directory 'foo': Permission denied", [("foo", WRITE)]),
    ("mv: cannot move '/x/a' to '/x/b': Permission denied", [("/x/a", WRITE), ("/x/b", WRITE)]),
    ("tee: /x/y: Permission denied", [("/x/y", WRITE)]),
    ("find: ‘/x/y’: Permission denied", [("/x/y", 0)]),
    ("rm: cannot remove '/x/y': Device or resource busy", [("/x/y", WRITE)]),
    ("OSError: [Errno 16] Device or resource busy: '/x/y' -> '/x/z'", [("/x/y", WRITE), ("/x/z", WRITE)]),
    ("Error: EBUSY: resource busy or locked, unlink '/x/y'", [("/x/y", WRITE)]),
    ("chmod: changing permissions of '/x/y': Operation not permitted", [("/x/y", WRITE)]),
    ("cat: /x/remove/write.lock: Permission denied", [("/x/remove/write.lock", 0)]),
    ("PermissionError: [Errno 13] Permission denied: '/x/y'", [("/x/y", 0)]),
    ("PermissionError: [Errno 13] Permission denied: '/x/a' -> '/x/b'", [("/x/a", 0), ("/x/b", 0)]),
    ("OSError: [Errno 30] Read-only file system: '/x/y'", [("/x/y", WRITE)]),
    ("Error: EACCES: permission denied, open '/x/y'", [("/x/y", 0)]),
    ("Error: EROFS: read-only file system, mkdir '/x/y'", [("/x/y", WRITE)]),
    ("npm ERR! Error: EACCES: permission denied, open '/x/y'", [("/x/y", 0)]),
    ("2026/01/01 00:00:00 open /x/y: permission denied", [("/x/y", 0)]),
    ("panic: mkdir /x/y: read-only file system", [("/x/y", WRITE)]),
    ("rg: /x/y: Permission denied (os error 13)", [("/x/y", 0)]),
    ("java.io.FileNotFoundException: /x/y (Permission denied)", [("/x/y", 0)]),
    ('Exception in thread "main" java.nio.file.AccessDeniedException: /x/y', [("/x/y", 0)]),
    ("error: could not lock config file /x/.gitconfig: Permission denied", [("/x/.gitconfig", WRITE)]),
    ("warning: unable to access '/x/.config/git/attributes': Permission denied", [("/x/.config/git/attributes", 0)]),
    ("fatal: could not open '/x/.git/HEAD' for reading: Permission denied", [("/x/.git/HEAD", READ)]),
    ("/a.rb:1:in `initialize': Permission denied @ rb_sysopen - /x/y (Errno::EACCES)", [("/x/y", 0)]),
    ("Can't open /x/y: Permission denied at t.pl line 1.", [("/x/y", 0)]),
    ("PHP Warning:  fopen(/x/y): Failed to open stream: Permission denied in /a.php on line 3", [("/x/y", 0)]),
    ("  │ cat: /x/y: Permission denied │", [("/x/y", 0)]),
    ("\x1b[31mcat: /x/y: Permission denied\x1b[0m", [("/x/y", 0)]),
    ("\x1b]0;title\x07cat: ~/y: Permission denied\r", [("~/y", 0)]),
    ("working…\rcat: /x/y: Permission denied", [("/x/y", 0)]),
    ("git@github.com: Permission denied (publickey).", []),
    ("Permission denied, please try again.", []),
    ("cat: /x/a\x01b: Permission denied", []),
    ("cat: /" + "x" * 2000 + ": Permission denied", []),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_finds_the_path(line: str, expected: list[tuple[str, int]]) -> None:
    assert [(found.path, found.access) for found in attempts(line.encode())] == expected


def test_rust_names_the_path_in_a_line_above() -> None:
    above = b"error: failed to write `/x/target/.cargo-lock`\n\nCaused by:"
    (found,) = attempts(b"  Permission denied (os error 13)", above)
    assert (found.path, found.access) == ("/x/target/.cargo-lock", WRITE)


def test_a_bare_word_may_be_no_path() -> None:
    (found,) = attempts(b"cat: foo: Permission denied")
    assert found.loose
    (found,) = attempts(b"cat: /foo: No such file or directory")
    assert found.absent


@given(st.binary(max_size=300), st.sampled_from(SIGNS), st.binary(max_size=300), st.binary(max_size=100))
def test_no_line_breaks_it(head: bytes, sign: bytes, tail: bytes, before: bytes) -> None:
    for found in attempts((head + sign + tail).replace(b"\n", b" "), before):
        assert found.path.isprintable()


def collected(*pieces: bytes) -> dict[bytes, int]:
    found = Complaints()
    for piece in pieces:
        found.feed(piece)
    found.finish()
    return {line: count for line, (_, count) in found.lines.items()}


def test_lines_are_found_however_they_are_cut() -> None:
    text = b"hello\ncat: /x: Permission denied\nfine\ncat: /x: Permission denied\nls: /y: Permission denied"
    whole = collected(text)
    assert whole == {b"cat: /x: Permission denied": 2, b"ls: /y: Permission denied": 1}
    assert collected(*(text[at : at + 1] for at in range(len(text)))) == whole
    assert collected(text[:17], text[17:]) == whole


def test_what_stood_above_a_line_is_kept() -> None:
    found = Complaints()
    found.feed(b"1\n2\n3\n4\nPermission denied (os error 13)\n")
    assert found.lines == {b"Permission denied (os error 13)": (b"2\n3\n4", 1)}


def test_a_flood_is_kept_small_and_ends_the_search() -> None:
    found = Complaints()
    for number in range(0, 100_000, 100):
        found.feed(b"".join(b"cat: /x/%d: Permission denied\n" % each for each in range(number, number + 100)))
    assert len(found.lines) == MAX_LINES
    assert found._left == 0
    found = Complaints()
    for _ in range(100):
        found.feed(b"Permission denied " * 10_000)
    assert len(found._tail) == LINE_BYTES
    found.feed(b"\n")
    assert sum(map(len, found.lines)) <= LINE_BYTES
