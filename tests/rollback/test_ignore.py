"""ignore.py: which rule decides, and .gitignore files compared with what git makes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nono.rollback import ignore
from nono.rollback.ignore import Ignore, Rules
from nono.rollback.tree import Walk, open_root


def left_out(path: Path, rules: Rules | None = None, texts: dict[str, str] | None = None) -> dict[str, str]:
    judge = Ignore(rules or Rules(), texts)
    root = open_root(os.fsencode(path))
    assert root
    walk = Walk(judge.rule_for, judge.enter)
    return {os.fsdecode(entry.path): entry.note for entry in walk.entries(root) if entry.reason}


def make(path: Path, *names: str, **texts: str) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (path / name).mkdir(exist_ok=True)
        else:
            (path / name).write_text("")


def test_directories_that_a_command_makes_anew_are_left_out_by_name(tmp_path: Path) -> None:
    make(tmp_path, "node_modules/x", "sub/.venv/x", "target", "src/x")
    assert left_out(tmp_path) == {"node_modules": "by default: node_modules", "sub/.venv": "by default: .venv"}
    assert left_out(tmp_path, Rules(defaults=False)) == {}


def test_what_is_included_is_taken_with_all_that_is_in_it(tmp_path: Path) -> None:
    make(tmp_path, "node_modules/node_modules/x", ".venv/x")
    assert left_out(tmp_path, Rules(include=("node_modules",))) == {".venv": "by default: .venv"}


def test_names_ends_of_paths_and_globs_are_excluded(tmp_path: Path) -> None:
    make(tmp_path, "a/build/x", "docs/build/x", "a/x.log", "b/x.log", "keep/x", "big.iso")
    assert set(left_out(tmp_path, Rules(exclude=("docs/build",)))) == {"docs/build"}
    assert set(left_out(tmp_path, Rules(exclude=("build",)))) == {"a/build", "docs/build"}
    assert set(left_out(tmp_path, Rules(exclude=("*.log", "*.iso")))) == {"a/x.log", "b/x.log", "big.iso"}
    assert left_out(tmp_path, Rules(exclude=("a/*.log",))) == {"a/x.log": "by the rule a/*.log"}
    assert set(left_out(tmp_path, Rules(exclude=("*.log",), include=("b",)))) == {"a/x.log"}


def test_a_repository_is_taken_whole(tmp_path: Path) -> None:
    make(tmp_path, ".git/refs/heads/target/x", ".git/objects/x.log", "x.log")
    (tmp_path / ".gitignore").write_text("*.log\n.git\n")
    assert set(left_out(tmp_path)) == {"x.log"}
    assert set(left_out(tmp_path, Rules(exclude=("objects",)))) == {"x.log", ".git/objects"}


def test_gitignore_is_what_git_makes_of_it(tmp_path: Path) -> None:
    """Each file is asked about with git check-ignore, in a tree with nested files, negations and anchors."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    pytest.importorskip("pathspec")
    names = (
        *(
            "a.log",
            "keep.log",
            "d/a.log",
            "d/keep.log",
            "d/e/a.log",
            "build/x",
            "d/build/x",
            "d/build.txt",
            "top",
            "d/top",
        ),
        *("logs/x", "logs/keep", "d/logs/keep", "foo/bar/x", "d/foo/bar/x", "x y", "#hash", "!bang", "d/e/f/deep.tmp"),
        *("d/e/kept.tmp", "src/a/z/b", "src/z/b", "trailing ", "üml", "c[1]", "c1"),
    )
    make(tmp_path, *names)
    (tmp_path / ".gitignore").write_text(
        "# a comment\n*.log\n!keep.log\nbuild/\n/top\nlogs/*\n!logs/keep\nfoo/bar\n\\#hash\n\\!bang\n**/deep.tmp\n"
        "src/**/b\ntrailing\\ \nü*\nc[1]\n"
    )
    (tmp_path / "d" / ".gitignore").write_text("keep.log\n*.tmp\n")
    (tmp_path / "d" / "e" / ".gitignore").write_text("!*.tmp\n!a.log\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        ["git", "-C", tmp_path, "ls-files", "-z", "--others", "--ignored", "--exclude-standard"], stdout=-1, check=True
    )
    ignored = set(os.fsdecode(listed.stdout).split("\0")) - {""}
    ours = left_out(tmp_path, Rules(defaults=False))
    files = {
        os.path.relpath(os.path.join(top, name), tmp_path) for top, _, found in os.walk(tmp_path) for name in found
    }
    below = {name for name in files if any(name == path or name.startswith(path + "/") for path in ours)}
    assert below == ignored
    assert ours["d/keep.log"] == "by d/.gitignore"


def test_the_final_walk_heeds_what_the_baseline_read_and_nothing_new(tmp_path: Path) -> None:
    pytest.importorskip("pathspec")
    make(tmp_path, "a.log", "b.txt")
    (tmp_path / ".gitignore").write_text("*.log\n")
    judge = Ignore(Rules())
    root = open_root(os.fsencode(tmp_path))
    assert root
    list(Walk(judge.rule_for, judge.enter).entries(root))
    assert judge.texts == {"": "*.log\n"}
    (tmp_path / ".gitignore").write_text("*\n")
    assert set(left_out(tmp_path, texts=judge.texts)) == {"a.log"}


def test_a_gitignore_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / ".gitignore")
    (tmp_path / "a" / ".gitignore").symlink_to("/etc/passwd")
    (tmp_path / "b" / ".gitignore").mkdir()
    assert set(left_out(tmp_path)) == {".gitignore"}


def test_patterns_that_would_take_hours_are_not_heeded_and_named(tmp_path: Path) -> None:
    pytest.importorskip("pathspec")
    make(tmp_path, "a" * 200)
    (tmp_path / ".gitignore").write_text("*a" * 30 + "b\n# ****** ** ** **\n**/*-*.x/*y*/*z\nlogs/*\n")
    judge = Ignore(Rules())
    root = open_root(os.fsencode(tmp_path))
    assert root
    assert len(list(Walk(judge.rule_for, judge.enter).entries(root))) == 3
    assert len(judge.notes) == 1
    assert "too many wildcards" in judge.notes[0][1]


def test_a_huge_gitignore_is_not_heeded_and_named(tmp_path: Path) -> None:
    make(tmp_path, "a.log")
    (tmp_path / ".gitignore").write_text("*.log\n" * 50_000)
    judge = Ignore(Rules())
    root = open_root(os.fsencode(tmp_path))
    assert root
    assert not [entry for entry in Walk(judge.rule_for, judge.enter).entries(root) if entry.reason]
    assert "too large" in judge.notes[0][1]


def test_without_the_library_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignore, "_library", lambda: None)
    make(tmp_path, "a.log")
    (tmp_path / ".gitignore").write_text("*.log\n")
    judge = Ignore(Rules())
    root = open_root(os.fsencode(tmp_path))
    assert root
    assert not [entry for entry in Walk(judge.rule_for, judge.enter).entries(root) if entry.reason]
    assert "pathspec is not installed" in judge.notes[0][1]
