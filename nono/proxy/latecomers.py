"""Verdicts that wait for hosts that are still being found out.

What `package_registries` holds is asked of the package managers beside the child's start, where nothing is known from
an earlier run; the agent's first `npm install` may be quicker. So while hosts are expected, whoever is denied one waits
and is judged anew each time some have come, and for the last time when no more will: after WAIT_S at the latest.
"""

from __future__ import annotations

from collections.abc import Callable

from nono.loop import Loop

WAIT_S = 10.0


class Latecomers:
    """Those who wait; `expected` says whether waiting makes sense."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[object, Callable[[], None]] = {}
        self.expected = False

    def expect(self) -> None:
        """From now on hosts may come, until `over`."""
        self.expected = True
        self._loop.call_later(WAIT_S, self.over)

    def wait(self, who: object, judge_again: Callable[[], None]) -> None:
        """Call `judge_again` once, when hosts have come or no more will, unless `who` is forgotten before."""
        self._waiting[who] = judge_again

    def forget(self, who: object) -> None:
        """Drop the call; idempotent."""
        self._waiting.pop(who, None)

    def came(self) -> None:
        """Some hosts have come."""
        waiting, self._waiting = self._waiting, {}
        for judge_again in waiting.values():
            judge_again()

    def over(self) -> None:
        """No more will come; idempotent."""
        self.expected = False
        self.came()
