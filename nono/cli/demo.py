"""See the whole of nono work in a few seconds, on stand-ins for the AI services, without a network."""

from __future__ import annotations

import argparse
import subprocess
import time

from nono.demo import verdict
from nono.demo.stage import Stage
from nono.errors import NonoError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo takes no flags."""


def run(arguments: argparse.Namespace) -> int:
    """Perform the demo; return 0 when every defence held, else 1."""
    try:
        return _perform()
    except (OSError, subprocess.SubprocessError) as error:
        raise NonoError(f"the demo could not be performed on this machine: {error}") from None


def _perform() -> int:
    start = time.monotonic()
    with Stage() as stage:
        _say(verdict.opening(stage.upstream.port))
        before = stage.run_without_nono()
        _say(verdict.without_nono(before))
        after = stage.run_with_nono()
        if not after.lines:
            _say(verdict.not_started(after))
            return 1
        _say(verdict.with_nono(after))
        token = str(after.asked("openai").get("held", ""))
        token_status = stage.present_directly("openai", token)
        _say(verdict.side_by_side(after, token_status))
        _say(verdict.attempts(before, after, stage.thefts, stage.keys.values()))
        audit_log = stage.audit_log()
        found = verdict.failures(after, stage.thefts, stage.keys, audit_log, token_status)
        _say(verdict.closing(found, time.monotonic() - start, len(audit_log)))
    return 1 if found else 0


def _say(text: str) -> None:
    print(text, flush=True)
