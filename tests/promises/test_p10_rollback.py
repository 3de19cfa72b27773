"""P10: reversible: what the agent did to tracked files can be reviewed and undone."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from nono.rollback import sessions, undo
from nono.rollback.journal import APPLYING, RESTORED, STAGING, Journal
from nono.rollback.objects import Store
from nono.rollback.undo import Selection
from tests.rollback.killing import in_child
from tests.rollback.trees import Picture, grow, picture
from tests.runs import Site, unfolded

FLAGS = ["--rollback", "--allow-cwd", "--block-net"]
# what `ravage` of tests/rollback/trees.py does, and more, as an agent: in its own process, behind the wall
RAVAGE = """
import os, shutil, socket, stat, sys
os.chdir("tree")
with open("edited", "w") as file: file.write("one\\nTWO\\n")
os.unlink("removed")
os.chmod("private", 0o644)
os.rmdir("empty")
shutil.rmtree("deep")
os.unlink("becomes-directory"); os.mkdir("becomes-directory"); open("becomes-directory/x", "w").close()
shutil.rmtree("becomes-file"); open("becomes-file", "w").close()
os.unlink("link"); os.symlink("/nonexistent/passwd", "link")
os.unlink("becomes-link"); os.symlink("/etc", "becomes-link")
os.unlink("two"); open("two", "w").close()
os.chmod("sealed", 0o755); os.unlink("sealed/in"); os.chmod("sealed", 0o500)
os.mkfifo("fifo")
os.makedirs("new/in/depth"); open("new/in/depth/file", "w").close(); os.chmod("new/in", 0o500)
with open("huge", "wb") as file: file.truncate(1 << 40)
os.utime("kept", (1, 1))
"""


REACH = """
import os, shutil, sys
ways = [os.unlink, os.rmdir, shutil.rmtree, lambda path: os.open(path, os.O_WRONLY), lambda path: os.truncate(path, 0),
        lambda path: open(path).read(), lambda path: os.rename(path, path + ".old"), lambda path: os.mkdir(path + "/x"),
        lambda path: os.symlink("x", path + "/x"), lambda path: os.link(path, path + ".old")]
for path in sys.argv[1:]:
    for way in ways:
        try:
            way(path)
        except OSError:
            continue
        sys.exit(f"{path} was in reach: {ways.index(way)}")
for path in sys.argv[1:]:
    try:
        os.chmod(path, 0)
    except OSError:
        pass
"""


class Work:
    """A site whose working directory has a tree with everything in it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.tree = site.work / "tree"
        grow(self.tree)
        self.before: Picture = picture(site.work)

    def agent(self, script: str, *flags: str) -> str:
        """Run the agent; return what nono said."""
        done = self.site.run([*FLAGS, *flags], [sys.executable, "-c", script])
        assert done.returncode == 0, done.stderr
        return unfolded(done.stderr)

    def rollback(self, *words: str, status: int = 0) -> str:
        done = self.site.nono(["rollback", *words])
        assert done.returncode == status, done.stderr
        return unfolded(done.stdout + done.stderr)


@pytest.fixture
def work(site: Site) -> Work:
    return Work(site)


def test_all_that_an_agent_can_do_to_a_tree_is_seen_and_undone(work: Work) -> None:
    said = work.agent(RAVAGE)
    for line in ("removed …/removed", "added …/new/in/depth/file", "modified …/edited", "mode …/private (0600 → 0644)"):
        assert line.replace("…", str(work.tree)) in said
    assert "to put this back: nono rollback restore" in said
    assert picture_of_small(work.site.work) != work.before
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before
    assert "nothing" in work.rollback("restore", "last")


def picture_of_small(root: Path) -> Picture:
    (root / "tree/huge").unlink()
    found = picture(root)
    with open(root / "tree/huge", "wb") as file:
        file.truncate(1 << 40)
    return found


def in_it(store: Path, session: Path) -> list[str]:
    """What an agent may know of, the deepest first."""
    paths = (
        *store.glob("objects/*/*"),
        *store.glob("objects/*"),
        session / "baseline",
        session,
        store / "objects",
        store,
    )
    return [str(path) for path in paths]


def test_the_store_is_out_of_the_agents_reach(work: Work) -> None:
    """Even where the whole home is granted, and it knows where it is."""
    work.agent("open('tree/kept', 'w').write('changed')")
    store = work.site.state / "rollback"
    (session,) = (store / "sessions").iterdir()
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    paths = [
        str(path) for path in (store, session, session / "baseline", store / "objects", *store.glob("objects/*/*"))
    ]
    done = work.site.run(["--allow", str(work.site.home), "--block-net"], [sys.executable, "-c", REACH, *paths])
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before


@pytest.mark.parametrize("inside", ["the working directory", "above it"])
def test_a_store_within_the_agents_reach_is_refused(work: Work, inside: str) -> None:
    where = work.site.work / "store" if inside == "the working directory" else work.site.work.parent
    done = work.site.run([*FLAGS, "--rollback-dest", str(where)], ["touch", "started"])
    assert done.returncode == 2
    assert "--rollback-dest" in done.stderr
    assert not (work.site.work / "started").exists()
    assert not (work.site.work / "store").exists()


def test_a_store_elsewhere_is_found_again(work: Work, tmp_path: Path) -> None:
    work.agent("open('tree/kept', 'w').write('changed')", "--rollback-dest", str(tmp_path / "store"))
    assert (tmp_path / "store/objects").is_dir()
    assert not (work.site.state / "rollback/objects").exists()
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before


def test_a_store_elsewhere_is_out_of_every_later_agents_reach(work: Work) -> None:
    """Whoever writes a baseline says what a restore writes, and where."""
    store = work.site.home / "kept/store"
    store.parent.mkdir()
    work.agent("open('tree/kept', 'w').write('changed')", "--rollback-dest", str(store))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    (session,) = (store / "sessions").iterdir()
    paths = [
        str(path) for path in (store, session, session / "baseline", store / "objects", *store.glob("objects/*/*"))
    ]
    for grant in (work.site.home, store.parent):
        done = work.site.run(["--allow", str(grant), "--block-net"], [sys.executable, "-c", REACH, *paths])
        assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before


def test_what_is_too_large_is_refused_before_the_run(work: Work) -> None:
    (work.site.work / "large").write_bytes(bytes(2 << 20))
    done = work.site.run([*FLAGS, "--rollback-max-size", "1M"], ["touch", "started"])
    assert done.returncode == 2
    assert "--rollback-max-size" in done.stderr
    assert not (work.site.work / "started").exists()
    assert not list((work.site.state / "rollback/sessions").iterdir())


def test_planted_links_lead_no_restore_astray(work: Work, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (outside / "er").mkdir()
    state = picture(outside)
    script = f"""
import os, shutil
shutil.rmtree("tree/deep"); os.symlink({str(outside)!r}, "tree/deep")
os.unlink("tree/edited"); os.symlink({str(outside / "file")!r}, "tree/edited")
shutil.rmtree("tree/becomes-file"); os.symlink("..", "tree/becomes-file")
"""
    work.agent(script)
    work.rollback("restore", "last", "tree/deep/er/est/file")
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before
    assert picture(outside) == state


def test_what_the_user_changed_since_is_his(work: Work) -> None:
    work.agent(RAVAGE)
    (work.tree / "huge").unlink()
    (work.tree / "edited").write_text("my own work\n")
    (work.tree / "mine").write_text("my own file\n")
    said = work.rollback("restore", "last", status=1)
    assert "left alone" in said
    assert "--force" in said
    assert (work.tree / "edited").read_text() == "my own work\n"
    work.rollback("restore", "last", "--force")
    assert (work.tree / "edited").read_text() == "one\ntwo\n"
    assert (work.tree / "mine").read_text() == "my own file\n"
    work.rollback("restore", "last", "--undo")
    assert (work.tree / "edited").read_text() == "my own work\n"


def killed_restore(work: Work, store: Path, state: str, *, back: bool = False) -> None:
    """Restore the last session, and die as soon as that is in this state."""

    def begin() -> None:
        go_on = Journal.go_on

        def dying(journal: Journal, now: str) -> None:
            go_on(journal, now)
            if now == state:
                os._exit(42)

        def mkdir(*args: Any, **named: Any) -> None:
            make(*args, **named)
            if state == STAGING and b".nono-restore-" in os.fsencode(args[0]):
                os._exit(42)

        make, os.mkdir = os.mkdir, mkdir
        Journal.go_on = dying  # type: ignore[method-assign]
        undo.restore(list(sessions.sessions(str(store)))[-1], Store(str(store)), Selection(), undo=back)

    assert in_child(begin) == 42


def test_what_takes_a_restore_back_is_said_and_does(work: Work) -> None:
    work.agent("open('tree/kept', 'w').write('changed')")
    said = work.rollback("restore", "last")
    (advice,) = re.findall(r"nono rollback (restore \S+ --undo)", said)
    assert f"nono rollback {advice}" in work.rollback("show", "last")
    work.rollback(*advice.split())
    assert (work.tree / "kept").read_text() == "changed"


def test_taking_back_is_finished_once(work: Work) -> None:
    work.agent("open('tree/kept', 'w').write('changed')")
    work.rollback("restore", "last")
    killed_restore(work, work.site.state / "rollback", RESTORED, back=True)
    said = work.rollback("restore", "last", "--undo")
    assert "it was finished" in said
    assert "left alone" not in said
    assert (work.tree / "kept").read_text() == "changed"


def test_no_run_starts_in_files_that_are_half_restored_from_another_store(work: Work, tmp_path: Path) -> None:
    work.agent("open('tree/kept', 'w').write('changed')", "--rollback-dest", str(tmp_path / "store"))
    killed_restore(work, tmp_path / "store", APPLYING)
    done = work.site.run(FLAGS, ["touch", "started"])
    assert done.returncode == 1
    assert "was interrupted in the same files" in done.stderr
    assert not (work.site.work / "started").exists()
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before


@pytest.mark.parametrize("state", [STAGING, APPLYING])
def test_whoever_takes_away_what_was_moved_hinders_no_restore_for_good(work: Work, tmp_path: Path, state: str) -> None:
    work.agent("open('tree/kept', 'w').write('changed')")
    (tmp_path / "outside").mkdir()
    killed_restore(work, work.site.state / "rollback", state)
    (staging,) = work.site.work.glob(".nono-restore-*")
    staging.rename(tmp_path / "stolen")
    staging.symlink_to(tmp_path / "outside")
    if state == APPLYING:
        said = work.rollback("restore", "last", status=1)
        (journal,) = re.findall(r"remove (\S+journal) and run this again with --force", said)
        os.unlink(journal)
    work.rollback("restore", "last", "--force")
    assert (work.tree / "kept").read_bytes() == b"as it was\n"
    work.rollback("restore", "last", "--undo")
    assert (work.tree / "kept").read_bytes() == b"changed"


def test_a_run_that_was_killed_can_be_undone(work: Work) -> None:
    """Its processes end with it; what they did by then is there."""
    script = "import os, sys, time; os.unlink('tree/kept'); print('done', flush=True); time.sleep(600)"
    with work.site.start(FLAGS, [sys.executable, "-c", script]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert "nono was killed" in work.rollback("list")
    done = work.site.nono(["rollback", "restore", "last"])
    assert done.returncode == 2
    assert "--force" in done.stderr
    work.rollback("restore", "last", "--force")
    assert picture(work.site.work) == work.before


def test_what_cannot_be_undone_is_said(site: Site) -> None:
    asks = [["OPENAI_BASE_URL", "POST", "/chat/completions", {"Authorization": "Bearer TOKEN"}, "{}"]] * 2
    flags = ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd", "--rollback"]
    done = site.run(flags, site.agent("send", json.dumps(asks)))
    assert done.returncode == 0, done.stderr
    said = unfolded(site.nono(["rollback", "show", "last"]).stdout)
    assert "elsewhere" in said
    assert "no restore brings back" in said
    assert f"POST localhost:{site.upstream.port} (2 times)" in said
    told = json.loads(site.nono(["rollback", "show", "last", "--json"]).stdout)
    assert told["effects"] == [{"method": "POST", "host": f"localhost:{site.upstream.port}", "count": 2}]


def test_an_agent_that_writes_while_it_dies_does_no_harm(work: Work) -> None:
    """The state after the run is taken when nothing of it is left."""
    script = """
import os
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            for number in range(50):
                path = f"tree/deep/{os.getpid()}-{number}"
                with open(path, "w") as file: file.write("x" * number)
                try: os.rename(path, "tree/deep/moved"); os.unlink("tree/deep/moved")
                except OSError: pass
import time
time.sleep(0.5)
"""
    work.agent(script)
    work.rollback("restore", "last")
    assert picture(work.site.work) == work.before
    assert "all as they were stored" in work.rollback("verify")


def test_names_do_not_repaint_the_screen(work: Work) -> None:
    said = work.agent("open('tree/\\x1b[2J\\nnono  kept', 'w').write('\\x1b[2J\\r')")
    said += work.rollback("show", "last") + work.rollback("show", "last", "--diff") + work.rollback("restore", "last")
    assert "\x1b" not in said
    assert "\r" not in said
    assert "\\x1b[2J\\nnono" in said


def test_a_damaged_store_is_found_and_changes_nothing(work: Work) -> None:
    work.agent("open('tree/kept', 'w').write('changed')")
    state = picture(work.site.work)
    for path in (work.site.state / "rollback/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[::-1] + b"!")
    assert "damaged" in work.rollback("verify", status=1)
    assert "damaged" in work.rollback("restore", "last", status=1)
    assert picture(work.site.work) == state


@pytest.mark.parametrize("length", [0, 20])
def test_without_its_rules_no_session_is_restored(work: Work, length: int) -> None:
    """After a run that was killed, --force would take what was left out for the agent's."""
    (work.site.work / "node_modules").mkdir()
    (work.site.work / "node_modules/mine").write_bytes(b"mine")
    work.agent("open('tree/kept', 'w').write('changed')")
    (session,) = (work.site.state / "rollback/sessions").iterdir()
    (session / "final").unlink()
    os.truncate(session / "meta.json", length)
    state = picture(work.site.work)
    assert "meta.json is damaged" in work.rollback("verify", status=1)
    assert "meta.json is damaged" in work.rollback("restore", "last", "--force", status=1)
    assert picture(work.site.work) == state


def test_cleanup_leaves_nothing_behind(work: Work) -> None:
    work.agent("open('tree/kept', 'w').write('changed')")
    work.agent("open('tree/kept', 'w').write('again')")
    work.rollback("cleanup", "--keep", "1")
    work.rollback("restore", "last")
    work.rollback("cleanup", "last")
    store = work.site.state / "rollback"
    assert not [path for path in (store / "objects").rglob("*") if path.is_file()]
    assert not list((store / "sessions").iterdir())


def test_what_could_not_be_started_leaves_no_session(work: Work) -> None:
    (work.site.work / "broken").write_bytes(b"\x7fELF no program")
    (work.site.work / "broken").chmod(0o755)
    done = work.site.run(FLAGS, ["./broken"])
    assert done.returncode == 126, done.stderr
    assert not list((work.site.state / "rollback/sessions").iterdir())


def test_a_profile_says_what_is_left_out(work: Work) -> None:
    (work.site.work / "build").mkdir()
    profile = work.site.vault / "profile.json"
    profile.write_text(json.dumps({"meta": {"name": "p"}, "rollback": {"exclude_patterns": ["build"]}}))
    said = work.agent("open('build/x', 'w').close(); open('y', 'w').close()", "--profile", str(profile))
    assert "build (by the rule build)" in said
    work.rollback("restore", "last")
    assert (work.site.work / "build/x").exists()
    assert not (work.site.work / "y").exists()


def test_flags_that_go_with_it_do_not_stand_alone(work: Work) -> None:
    done = work.site.run(["--allow-cwd", "--rollback-exclude", "x"], ["true"])
    assert done.returncode == 2
    assert "goes with --rollback" in done.stderr
    done = work.site.run(["--rollback", "--block-net"], ["true"])
    assert done.returncode == 2
    assert "--allow-cwd" in done.stderr


def test_a_file_that_is_granted_alone_is_tracked(site: Site) -> None:
    file = site.work / "notes"
    file.write_text("before\n")
    os.utime(file, ns=(1, 1_000_000_007))
    before = picture(file)
    done = site.run(["--rollback", "--allow-file", str(file), "--block-net"], ["sh", "-c", f"echo after > {file}"])
    assert done.returncode == 0, done.stderr
    assert file.read_text() == "after\n"
    done = site.nono(["rollback", "restore", "last"])
    assert done.returncode == 0, done.stderr
    assert picture(file) == before
