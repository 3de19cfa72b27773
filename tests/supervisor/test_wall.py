"""Which wall is put up, and around what."""

from __future__ import annotations

import os
from errno import EPERM
from pathlib import Path
from typing import Any

import pytest

from nono.kernel.spawn_errors import SpawnError
from nono.policy.capabilities import NETWORK_BLOCKED, READ, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan
from nono.supervisor import wall


class Abandoned:
    """What was prepared, in a test that prepares nothing."""


@pytest.mark.parametrize("first", ["mounts", "no mounts", "notify"])
def test_without_mounts_what_they_would_protect_is_cut_out_of_the_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    signed, beside = tmp_path / "CLAUDE.md", tmp_path / "other"
    signed.touch()
    beside.touch()
    capabilities = CapabilitySet(
        (PathGrant(str(tmp_path), READ | WRITE, False, "--allow"),),
        (PathDeny(str(signed), "signed, read-only", WRITE, pinned=True),),
        NETWORK_BLOCKED, (), str(tmp_path),
    )  # fmt: skip

    def prepare(plan: Plan, *arguments: Any) -> Any:
        if (first != "mounts" and plan.wall.mounts) or (first == "notify" and plan.namespaces):
            raise SpawnError("mount", EPERM, "no mounts here")
        return Abandoned()

    monkeypatch.setattr(wall, "_prepare", prepare)
    monkeypatch.setattr(wall, "_check_yama", lambda missing: None)
    expansion = filesystem.expand(capabilities, mounts=True)
    standing = wall.put_up(expansion, capabilities, temporary_directory="/nonexistent", proxy_port=None, terminal=None)
    rules = {os.path.relpath(rule.path, tmp_path) for rule in standing.plan.rules}
    if first == "mounts":
        assert standing.expansion == expansion
        assert rules == {"."}
        assert str(signed) in {mount.target for mount in standing.plan.mounts}
    else:
        assert standing.expansion.pinned == ()
        writable = [rule for rule in standing.plan.rules if rule.access & 0x2]  # LANDLOCK_ACCESS_FS_WRITE_FILE
        assert [rule.path for rule in writable] == [str(beside)]
        assert any("new files cannot be created directly in it" in note for note in standing.plan.notes)
