"""What changed since it was verified: before the agent starts it is a refusal, after the run it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nono.session import verification
from nono.trust import files
from nono.trust.errors import TrustError
from tests.session.signed_tree import Log, Tree, left, refusal
from tests.session.signed_tree import tree as tree
from tests.signing import digest


def change_content(path: Path) -> None:
    path.write_text("something else")


def put_back_what_was(path: Path) -> None:
    """The same bytes, size and modification time; the inode tells."""
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(b"x" * len(data))
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def make_it_a_link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def give_it_another_name(path: Path) -> None:
    path.with_name("other").hardlink_to(path)


def move_its_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


@pytest.mark.parametrize("loose", [False, True], ids=["held open", "one of very many"])
@pytest.mark.parametrize(
    "change",
    [change_content, put_back_what_was, replace, make_it_a_link, give_it_another_name, move_its_directory, Path.unlink],
)
def test_what_changes_between_verification_and_start_is_caught(
    tree: Tree, change: Callable[[Path], None], loose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_MOST_HELD", 0 if loose else 128)
    with tree.verify() as verified:
        verified.recheck()
        change(tree.skill)
        with pytest.raises(TrustError, match=r"docs/SKILL\.md was changed after it was verified; nothing was started"):
            verified.recheck()


def test_a_link_that_is_replaced_while_it_is_looked_at_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "SKILL.md").write_bytes(b"x")
    opened = files.open_file(str(tmp_path), "a/SKILL.md")
    files.close(opened)
    assert verification._identity(opened) == opened.identity
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").symlink_to("b")

    def gone(*_: object, **__: object) -> str:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(os, "readlink", gone)
    assert verification._identity(opened) is None


def test_a_policy_that_appears_in_between_is_caught(tree: Tree) -> None:
    with tree.verify(tree.root / "docs") as verified:
        (tree.root / "docs/trust-policy.json").write_text("{}")
        with pytest.raises(TrustError, match=r"docs/trust-policy\.json was made while files were verified"):
            verified.recheck()


def test_nothing_is_told_of_a_run_that_left_all_as_it_was(tree: Tree) -> None:
    with tree.verify() as verified:
        verified.release()
        tree.write("harmless.md")
        log = left(verified)
    assert (log.records, log.told) == ([], [])


def test_what_a_run_leaves_unsigned_is_told_and_refused_the_next_time(tree: Tree) -> None:
    with tree.verify() as verified:
        verified.release()
        tree.write("more/SKILL.md")
        tree.write("CLAUDE.md", "do that")
        (tree.root / "docs").rename(tree.root / "moved")
        (tree.root / "docs").mkdir()
        log = left(verified)
    assert {(record["what"], record["path"], record["outcome"]) for record in log.records} == {
        ("new", "more/SKILL.md", "unsigned"), ("changed", "CLAUDE.md", "changed"), ("gone", "docs/SKILL.md", "changed"),
    }  # fmt: skip
    assert {record["path"]: record["sha256"] for record in log.records}["CLAUDE.md"] == digest(tree.claude)
    assert (
        "more/SKILL.md, new since this run, is not signed; read it, then sign it: nono trust sign more/SKILL.md"
        in log.told
    )
    assert any(text.startswith("docs/SKILL.md, which was there before this run, is gone") for text in log.told)
    assert log.told[-1] == "the next run does not start until these are verified"
    assert "more/SKILL.md" in refusal(tree.verify)


def test_a_link_that_a_run_leaves_is_told(tree: Tree) -> None:
    with tree.verify() as verified:
        (tree.root / "SKILL.md").symlink_to("/nonexistent")
        (tree.root / "linked").symlink_to("docs")
        told = left(verified).told
    assert any(text.startswith("SKILL.md, new since this run, is a symlink") for text in told)
    assert any(text.startswith("linked/SKILL.md, new since this run, ") for text in told)


def test_what_somebody_signed_meanwhile_is_not_told(tree: Tree) -> None:
    with tree.verify() as verified:
        tree.signer.sign(tree.write("more/SKILL.md"), tree.write("CLAUDE.md", "do that"))
        assert left(verified).told == []


def test_a_policy_that_a_run_leaves_is_told(tree: Tree) -> None:
    with tree.verify(tree.root / "docs") as verified:
        (tree.root / "docs/trust-policy.json").write_text("{}")
        told = left(verified).told
    assert told[0] == (
        "~/project/docs/trust-policy.json, new since this run, is a policy from the next run on; read it"
    )


def test_of_very_many_that_are_left_the_first_are_told(tree: Tree) -> None:
    with tree.verify() as verified:
        for number in range(30):
            tree.write(f"{number:02}/SKILL.md")
        log = left(verified)
    assert (len(log.records), len(log.told)) == (30, 12 + 1 + 1)
    assert log.told[12] == "18 more files that would instruct an agent changed in this run: nono trust list"


def test_a_run_that_never_began_has_left_nothing(tree: Tree) -> None:
    log = Log()
    with tree.verify() as verified:
        tree.write("CLAUDE.md", "do that")
        verified.look_again(log, log.told.append)  # type: ignore[arg-type]
    assert (log.records, log.told) == ([], [])


def test_nobody_waits_for_all_that_an_agent_can_make(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_MOST_TOLD", 5)
    with tree.verify() as verified:
        for number in range(30):
            tree.write(f"{number:02}/SKILL.md")
        assert len(left(verified).records) == 5


def test_nor_for_long(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for what verifies, as a copy of a signed file does: it is not told, and so not counted."""
    with tree.verify() as verified:
        tree.write("new/SKILL.md")
        for number in range(30):
            tree.signer.sign(tree.write(f"{number:02}/SKILL.md"))
        assert [record["path"] for record in left(verified).records] == ["new/SKILL.md"]
        monkeypatch.setattr(verification, "_LONGEST_S", -1)
        (told,) = left(verified).told
    assert told.startswith("what the run has left unsigned is not known: there is more than can be looked at in ")


def test_a_tree_that_cannot_be_looked_at_again_is_said_and_no_failure(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tree.verify() as verified:

        def fail(*arguments: object) -> Iterator[object]:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(verification.find, "find", fail)
        (told,) = left(verified).told
    assert told == "what the run has left unsigned is not known: Input/output error. See: nono trust list"
