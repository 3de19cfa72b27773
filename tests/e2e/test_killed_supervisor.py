"""When the supervisor is killed outright, what is left of the agent has no network and no key (P7)."""

from __future__ import annotations

import json
import os
import select

from tests import memscan
from tests.runs import KEYS, TIMEOUT_S, Site


def test_a_child_whose_supervisor_was_killed_has_no_network_and_no_key(site: Site) -> None:
    afterwards = site.work / "afterwards.json"
    profile = site.profile(site.store_in_files())
    process = site.start(["--profile", str(profile), "--allow-cwd"], site.agent("outlive", str(afterwards)))
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["status"] == 200
    process.kill()
    process.wait(TIMEOUT_S)
    # The child holds the other end of this pipe: it is at its end when the child is gone.
    ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
    assert ready
    assert process.stdout.read() == b""
    if afterwards.exists():  # it outlived its supervisor: then with nothing
        found = json.loads(afterwards.read_text())
        assert found["connect"] in ("ECONNREFUSED", "closed")
        assert not any(key in json.dumps(found["environment"]) for key in KEYS.values())
    process.communicate()


def test_scan_sees_what_a_process_holds() -> None:
    """The instrument of these tests measures: this process does hold its keys."""
    assert memscan.scan(os.getpid(), KEYS["openai"].encode()).full > 0
