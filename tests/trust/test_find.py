"""What the includes match in a tree, and what nono cannot vouch for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nono.trust import find, globs
from nono.trust.find import Found

PROC = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are listed in /proc")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(root: Path, *patterns: str, skip: tuple[str, ...] = ()) -> dict[str, str]:
    listed = list(find.find(str(root), globs.compile(patterns), skip))
    assert listed == sorted(listed)
    assert len({each.path for each in listed}) == len(listed)
    assert all(bool(each.problem) == bool(each.next_step) for each in listed)
    return {each.path: each.problem for each in listed}


def test_finds_what_matches_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "CLAUDE.md", "b/SKILL.md", "b.md", "b/c/SKILL.md", "a/SKILL.md", "a/x.txt")
    assert list(found(tmp_path, "**/SKILL.md", "CLAUDE.md")) == [
        "CLAUDE.md", "a/SKILL.md", "b/SKILL.md", "b/c/SKILL.md"
    ]  # fmt: skip
    assert found(tmp_path) == {}
    assert found(tmp_path, "none") == {}


def test_leaves_out_what_was_installed_and_what_the_caller_names(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/SKILL.md" for name in (*find.SKIPPED, "mine", "kept")), "kept/node_modules/x/SKILL.md")
    assert list(found(tmp_path, "**/SKILL.md", skip=("mine",))) == ["kept/SKILL.md"]
    touch(tmp_path, "distant/dist")
    assert list(found(tmp_path, "**/dist")) == ["distant/dist"]  # a file of that name


@pytest.mark.parametrize("agent", sorted(find.AGENTS))
def test_looks_into_all_of_an_agents_own_directory(tmp_path: Path, agent: str) -> None:
    touch(tmp_path, f"{agent}/skills/vendor/SKILL.md", f"a/{agent}/dist/target/SKILL.md", f"dist/{agent}/SKILL.md")
    touch(tmp_path, f"{agent}/mine/SKILL.md")
    assert list(found(tmp_path, "**/SKILL.md", skip=("mine",))) == sorted(
        [f"{agent}/skills/vendor/SKILL.md", f"a/{agent}/dist/target/SKILL.md"]
    )


def test_bundles_are_no_instructions(tmp_path: Path) -> None:
    touch(tmp_path, "a.md", "a.md.bundle", ".nono-trust.bundle", "b.bundle/a.md")
    assert list(found(tmp_path, "**")) == ["a.md", "b.bundle/a.md"]


def test_the_name_of_a_bundle_alone_makes_none(tmp_path: Path) -> None:
    touch(tmp_path, "skills/app.bundle", "skills/a.md", "skills/a.md.bundle", "skills/.nono-trust.bundle", "x.bundle")
    assert found(tmp_path, "skills/**") == {
        "skills/a.md": "",
        "skills/app.bundle": "has the name of a bundle, and what it would be for is not there",
    }


def test_a_pattern_that_spells_a_directory_out_is_not_for_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "vendor/skills/SKILL.md", "vendor/x/SKILL.md", "dist/SKILL.md")
    assert list(found(tmp_path, "vendor/skills/*.md", "**/SKILL.md")) == [
        "vendor/skills/SKILL.md", "vendor/x/SKILL.md"
    ]  # fmt: skip
    assert found(tmp_path, "vendor/skills/*.md", skip=("vendor",)) == {}


def test_where_cases_are_the_same_a_name_in_another_one_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such file system in CI: os.stat answers as one would."""
    touch(tmp_path, "skill.md", "CLAUDE.md", "Docs/x.md", "docsy/x.md", "vendor/a")
    patterns = "**/SKILL.md", "CLAUDE.md", "docs/*.md"
    assert found(tmp_path, *patterns) == {"CLAUDE.md": ""}
    stat = os.stat

    def folding(path: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        (name,) = (each for each in os.listdir(dir_fd) if each.lower() == path.lower())
        return stat(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "stat", folding)
    why = "matches but for its case, which makes no difference in this directory"
    assert found(tmp_path, *patterns) == {"CLAUDE.md": "", "Docs/x.md": why, "skill.md": why}


def test_a_policy_is_left_out_where_it_has_a_bundle(tmp_path: Path) -> None:
    touch(tmp_path, "trust-policy.json", "sub/trust-policy.json", "sub/trust-policy.json.bundle")
    assert list(found(tmp_path, "**")) == ["sub/trust-policy.json", "trust-policy.json"]
    touch(tmp_path, "trust-policy.json.bundle")
    assert list(found(tmp_path, "**")) == ["sub/trust-policy.json"]


def test_links_and_what_is_no_file_are_problems(tmp_path: Path) -> None:
    touch(tmp_path, "AGENTS.md")
    (tmp_path / "CLAUDE.md").symlink_to("AGENTS.md")
    (tmp_path / "dangling.md").symlink_to("/nonexistent")
    (tmp_path / "other.txt").symlink_to("AGENTS.md")
    os.mkfifo(tmp_path / "fifo.md")
    (tmp_path / "directory.md").mkdir()
    assert found(tmp_path, "*.md") == {
        "AGENTS.md": "",
        "CLAUDE.md": "is a symlink",
        "dangling.md": "is a symlink",
        "fifo.md": "is not a regular file",
    }


def test_a_name_that_is_not_utf_8_is_a_problem_where_it_matches(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"\xff.md"), os.fsdecode(b"\xff.txt"), os.fsdecode(b"d\xff/SKILL.md"))
    assert set(found(tmp_path, "**/*.md").values()) == {"has a name that is not UTF-8"}
    assert len(found(tmp_path, "**/*.md")) == 2


class TestSymlinkedDirectories:
    def test_one_that_stays_inside_is_looked_into_under_its_own_name(self, tmp_path: Path) -> None:
        touch(tmp_path, "skills/a/SKILL.md", "skills/a/x.txt")
        (tmp_path / ".claude").mkdir()
        (tmp_path / ".claude" / "skills").symlink_to("../skills")
        assert found(tmp_path, ".claude/*/*/SKILL.md") == {
            ".claude/skills/a/SKILL.md": "is reached through a symlinked directory"
        }
        assert found(tmp_path, "**/SKILL.md") == {
            ".claude/skills/a/SKILL.md": "is reached through a symlinked directory",
            "skills/a/SKILL.md": "",
        }
        assert found(tmp_path, "**/y.md") == {}

    def test_one_that_leads_out_is_a_problem_where_something_could_match(self, tmp_path: Path) -> None:
        root = tmp_path / "project"
        touch(tmp_path, "outside/SKILL.md", "project/CLAUDE.md", "projects/SKILL.md")
        (root / "out").symlink_to(tmp_path / "outside")
        (root / "beside").symlink_to(tmp_path / "projects")
        assert "directory outside" in found(root, "**/SKILL.md")["out"]
        assert "directory outside" in found(root, "**/SKILL.md")["beside"]
        assert found(root, "CLAUDE.md") == {"CLAUDE.md": ""}
        assert set(found(root, "out/SKILL.md")) == {"out"}
        assert found(root, "**/SKILL.md", skip=("out", "beside")) == {}

    def test_one_that_matches_itself_is_a_problem_itself(self, tmp_path: Path) -> None:
        touch(tmp_path, "real/x")
        (tmp_path / "skills.bundle").symlink_to("real")
        assert found(tmp_path, "*") == {"real/x": "", "skills.bundle": "is a symlink"}

    def test_the_name_of_a_bundle_hides_nothing(self, tmp_path: Path) -> None:
        touch(tmp_path, "real/SKILL.md")
        (tmp_path / "x.bundle").symlink_to("real")
        assert set(found(tmp_path, "**/SKILL.md")) == {"real/SKILL.md", "x.bundle/SKILL.md"}

    def test_circles_end(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/SKILL.md")
        (tmp_path / "a" / "again").symlink_to(".")
        (tmp_path / "a" / "up").symlink_to("..")
        (tmp_path / "self").symlink_to("self")
        assert set(found(tmp_path, "**/SKILL.md")) == {"a/SKILL.md"}
        assert set(found(tmp_path, "CLAUDE.md", "**/SKILL.md")) == {"a/SKILL.md"}

    @pytest.mark.parametrize(
        ("link", "target", "pattern", "expected"),
        [
            (".claude/commands", "..", ".claude/commands/*.md", ".claude/commands/x.md"),
            ("skills", ".", "skills/*.md", "skills/x.md"),
            ("skills", ".", "skills/skills/x.md", "skills/skills/x.md"),
            ("a/skills", "../a", "**/skills/*.md", "a/skills/y.md"),
        ],
    )
    def test_a_circle_is_gone_round_where_something_new_matches(
        self, tmp_path: Path, link: str, target: str, pattern: str, expected: str
    ) -> None:
        touch(tmp_path, "x.md", "a/y.md", ".claude/z")
        assert found(tmp_path, pattern).get(expected) is None
        (tmp_path / link).symlink_to(target)
        assert (tmp_path / expected).exists()
        assert found(tmp_path, pattern)[expected] == "is reached through a symlinked directory"

    @PROC
    def test_one_through_proc_leads_elsewhere_for_another_process(self, tmp_path: Path) -> None:
        touch(tmp_path, "x/SKILL.md", "d/x")
        (tmp_path / "skills").symlink_to("/proc/self/cwd/x")
        (tmp_path / "d" / "by").symlink_to("../skills")
        (tmp_path / "fd").symlink_to("/dev/fd/3")
        (tmp_path / "gone").symlink_to("nowhere")
        problems = found(tmp_path, "skills/*", "d/**", "fd/*", "gone/*")
        assert set(problems) == {"skills", "d/by", "d/x", "fd"}
        assert "through /proc" in problems["skills"]
        assert found(tmp_path, "x/*.md") == {"x/SKILL.md": ""}

    def test_where_one_leads(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/b/x")
        for name, target in (
            ("up", ".."), ("to", "up/c/"), ("there", "to/./b//x/../.."), ("root", "/"), ("circle", "a/../circle"),
            ("fd", "/proc/self/fd"), ("by", "fd"), ("name", "proc"),
        ):  # fmt: skip
            (tmp_path / "a" / name).symlink_to(target)
        led = {name: find._destination(f"{tmp_path}/a/{name}") for name in os.listdir(tmp_path / "a") if name != "b"}
        assert led == {
            "up": str(tmp_path), "to": f"{tmp_path}/c", "there": f"{tmp_path}/c", "root": "/", "circle": "",
            "fd": "/proc", "by": "/proc", "name": f"{tmp_path}/a/proc",
        }  # fmt: skip

    def test_one_that_is_replaced_while_it_is_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch(tmp_path, "a/SKILL.md")
        (tmp_path / "b").symlink_to("a")

        def gone(*_: object, **__: object) -> str:
            raise OSError(errno.EINVAL, "")

        monkeypatch.setattr(os, "readlink", gone)
        assert found(tmp_path, "**/SKILL.md")["a/SKILL.md"] == ""

    def test_many_links_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(find, "_MOST_THROUGH_LINKS", 500)
        for one in range(9):
            touch(tmp_path, f"d{one}/x")
            for other in range(9):
                (tmp_path / f"d{one}" / f"to{other}").symlink_to(f"../d{other}")
        assert any("seen 500 files through symlinks" in problem for problem in found(tmp_path, "**/y").values())

    def test_beyond_the_bound_no_directory_is_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = 0
        scandir = os.scandir

        def counting(fd: int) -> object:
            nonlocal listed
            listed += 1
            return scandir(fd)

        monkeypatch.setattr(find, "_MOST_THROUGH_LINKS", 500)
        monkeypatch.setattr(os, "scandir", counting)
        for number in range(100):
            (tmp_path / f"{number}").symlink_to(".")
        problems = found(tmp_path, "*/x/y")
        assert listed < 10
        assert len(problems) >= 90

    def test_a_link_through_the_root_is_inside(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        touch(real, "a/SKILL.md")
        (real / "b").symlink_to(real / "a")
        (tmp_path / "root").symlink_to("real")
        assert set(found(tmp_path / "root", "**/SKILL.md")) == {"a/SKILL.md", "b/SKILL.md"}


@PROC
def test_does_not_look_where_nothing_can_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "CLAUDE.md", "deep/er/x", ".claude/skills/x.md", ".claudius/x.md")
    looked = []
    scandir = os.scandir

    def spying(fd: int) -> object:
        looked.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(tmp_path)))
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", spying)
    assert list(found(tmp_path, "CLAUDE.md", ".claude/**")) == [".claude/skills/x.md", "CLAUDE.md"]
    assert looked == ["", "/.claude", "/.claude/skills"]


def test_depth_and_number_are_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "/".join(["d"] * 70) + "/SKILL.md")
    (problem,) = found(tmp_path, "**/SKILL.md").values()
    assert "more than 64 directories deep" in problem
    monkeypatch.setattr(find, "_MOST_SEEN", 10)
    assert "seen 10 files, and looks at no more" in next(iter(found(tmp_path, "**/SKILL.md").values()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "closed/SKILL.md")
    (tmp_path / "closed").chmod(0)
    assert "cannot be looked into" in found(tmp_path, "**/SKILL.md")["closed"]
    assert found(tmp_path, "CLAUDE.md") == {}


def test_nobody_is_asked_to_leave_out_what_an_agent_may_have_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the next run it would open it again, and change what was verified in it."""
    touch(tmp_path, "closed/SKILL.md")

    def fail(walk: object, place: str) -> int:
        raise PermissionError(13, "Permission denied", place)

    monkeypatch.setattr(find._Walk, "_open", fail)
    (told,) = find.find(str(tmp_path), globs.compile(["**/SKILL.md"]))
    assert told.problem == "cannot be looked into (Permission denied)"
    assert told.next_step.startswith("make it readable")


def test_that_a_name_is_left_out_everywhere_is_said(tmp_path: Path) -> None:
    """An agent may make a link, so that its user leaves out what is called as the directory of his signed files is."""
    touch(tmp_path, ".claude/skills/SKILL.md")
    (tmp_path / "skills").symlink_to("/proc")
    (step,) = (told.next_step for told in find.find(str(tmp_path), globs.compile(["**/SKILL.md"])) if told.problem)
    assert "nor in any other directory of this name: --skip-dir" in step


def test_a_root_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be looked into" in found(tmp_path / "none", "a")["."]


@PROC
def test_no_descriptor_is_left(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/SKILL.md")
    (tmp_path / "l").symlink_to("a")
    before = len(os.listdir("/proc/self/fd"))
    found(tmp_path, "**/SKILL.md")
    assert len(os.listdir("/proc/self/fd")) == before


def test_found_is_a_record() -> None:
    assert Found("a") == ("a", "", "")
