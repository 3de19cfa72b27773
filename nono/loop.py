"""The event loop: readiness of file descriptors, timers, and wake-ups from other threads.

Knows no HTTP and no child. One thread runs it; only `call_from_thread` may be called from another.

Level-triggered, on `selectors`. In one turn it waits, runs the callbacks of the descriptors that are ready, then what
`call_soon` had collected before the turn's end, then the timers that are due. `now` is the monotonic clock as read once
after the wait: everything that happens in one turn happens at one time, and costs one clock call.

A callback may unregister any descriptor, also one whose event is still to be delivered in this turn. The loop does not
check for that (it would cost every event a lookup): whoever closes a descriptor must ignore events that come after.
Exceptions of callbacks leave `run`: who registers a callback knows what a failure means, the loop does not.
"""

from __future__ import annotations

import heapq
import os
import selectors
from collections import deque
from collections.abc import Callable
from time import monotonic

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Timer:
    """A call that `call_later` will make; `cancel` is idempotent and works after it was made."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """One thread's event loop."""

    def __init__(self) -> None:
        self.now = monotonic()
        self._selector = selectors.DefaultSelector()
        # Descriptors registered with no event: `selectors` refuses those, so they wait here with their callback.
        self._parked: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._soon: deque[Callable[[], None]] = deque()
        self._from_threads: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.register(self._wake_read, READ, self._woken)

    def register(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready)` in every turn in which one of `events` (READ | WRITE, or 0) is ready."""
        if events:
            self._selector.register(fd, events, callback)
        else:
            self._parked[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on a registered descriptor; its callback stays."""
        callback = self._parked.pop(fd, None)
        if callback is not None:
            self.register(fd, events, callback)
        elif events:
            self._selector.modify(fd, events, self._selector.get_key(fd).data)
        else:
            self._parked[fd] = self._selector.unregister(fd).data

    def rebind(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Give a registered descriptor another callback. events: those that it waits for already."""
        if fd in self._parked:
            self._parked[fd] = callback
        else:
            self._selector.modify(fd, events, callback)

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor; to be called before it is closed."""
        if self._parked.pop(fd, None) is None:
            self._selector.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, not before `delay_s` seconds from now."""
        timer = Timer(callback)
        self._timer_count += 1  # breaks ties: timers due at one time fire in the order they were made
        heapq.heappush(self._timers, (monotonic() + delay_s, self._timer_count, timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end of this turn."""
        self._soon.append(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop's thread soon. The one method that other threads may use."""
        self._from_threads.append(callback)
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already
        except OSError:
            pass  # closed: a thread that outlived the loop has nobody to tell

    def stop(self) -> None:
        """Let `run` return at the end of this turn."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop` is called."""
        self._stopping = False
        select, soon, timers = self._selector.select, self._soon, self._timers
        self.now = now = monotonic()
        while not self._stopping:
            if soon:
                timeout: float | None = 0.0
            elif timers:
                timeout = timers[0][0] - now  # of the last turn: a timer may be late by as long as that took
            else:
                timeout = None
            ready = select(timeout)
            self.now = now = monotonic()
            for key, events in ready:
                key.data(events)
            if soon:
                for _ in range(len(soon)):
                    soon.popleft()()
            while timers and timers[0][0] <= now:
                heapq.heappop(timers)[2]._fire()

    def close(self) -> None:
        """Release the loop's own descriptors. What others registered stays theirs."""
        self._selector.close()
        wake_write, self._wake_write = self._wake_write, -1  # a late thread gets EBADF, not someone else's descriptor
        os.close(self._wake_read)
        os.close(wake_write)

    def _woken(self, events: int) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        for _ in range(len(self._from_threads)):
            self._from_threads.popleft()()
