"""What verification adds to a start: nothing slow is imported, and `cryptography` only where something is verified."""

from __future__ import annotations

from tests.test_layers import MODULES, SLOW, imports_of

AT_A_START = ("anchors", "bundle", "check", "errors", "files", "find", "globs", "keys", "own", "policy", "strict")


def test_nothing_slow_is_imported_by_what_runs_at_a_start() -> None:
    seen: set[str] = set()
    todo = [f"nono.trust.{name}" for name in AT_A_START]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports_of(MODULES[module]):
            assert name not in SLOW, f"{module} imports {name}"
            assert name.split(".")[0] not in ("cryptography", "sigstore"), f"{module} imports {name}"
            if name in MODULES:
                todo.append(name)
    assert not {"nono.trust.keyless", "nono.trust.signing"} & seen
