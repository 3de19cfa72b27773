"""P7: a missing feature or any error before exec means no agent (tests/cli/test_bad_input.py has those one by one).

After that, no supervisor means no network and no key.
"""

from __future__ import annotations

import errno
import json
import signal

import pytest

from tests.runs import KEYS, TIMEOUT_S, WITHOUT_LANDLOCK, Site


def flags(site: Site) -> list[str]:
    return ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda each: each.name)
def test_a_killed_supervisor_leaves_no_network_and_no_key(site: Site, number: signal.Signals) -> None:
    afterwards = site.work / "afterwards.json"
    process = site.start(flags(site), site.agent("outlive", str(afterwards)))
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        pytest.fail(process.communicate()[1].decode())
    assert json.loads(line)["status"] == 200
    process.send_signal(number)
    process.wait(TIMEOUT_S)
    # The child holds the other end of this pipe: at its end the child is gone, whether it was killed or finished.
    assert process.communicate(timeout=TIMEOUT_S)[0] == b""
    if afterwards.exists():  # it outlived its supervisor: then with nothing
        found = json.loads(afterwards.read_text())
        assert found["connect"] in (errno.errorcode[errno.ECONNREFUSED], "closed")
        assert not any(key in json.dumps(found["environment"]) for key in KEYS.values())


def test_a_stopped_supervisor_answers_nothing(site: Site) -> None:
    """Nothing stands behind the listener but the supervisor: while it is stopped, the agent waits."""
    process = site.start(flags(site), site.agent("ask_when_told"))
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGSTOP)
    process.stdin.write(b"ask\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"no answer\n"
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=TIMEOUT_S)[0] == b"200\n"
    assert [received.accepted for received in site.upstream.received] == [True]


def test_an_audit_log_that_cannot_be_written_stops_the_run(site: Site) -> None:
    site.state.parent.mkdir(parents=True)
    site.state.write_text("a file where the directory should be")
    done = site.run(flags(site), ["touch", str(site.work / "mark")])
    assert done.returncode == 1
    assert "audit" in done.stderr
    assert not (site.work / "mark").exists()


@pytest.mark.parametrize("flags", [["--sandbox", "notify", "--block-net"], ["--allow-unix-socket", "own"]])
def test_calls_that_cannot_be_judged_here_are_a_reason_not_to_start(site: Site, flags: list[str]) -> None:
    """Without pidfd_getfd (438), which a container's filter may forbid, every connect would fail."""
    script = WITHOUT_LANDLOCK[2].replace("444", "438").replace("446", "438").replace("ENOSYS", "EPERM")
    done = site.run(["--allow", ".", *flags], ["touch", "started"], wrap=[*WITHOUT_LANDLOCK[:2], script])
    assert done.returncode != 0
    assert "pidfd_getfd" in done.stderr
    assert not (site.work / "started").exists()
