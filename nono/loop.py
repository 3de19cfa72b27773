"""The event loop: readiness of file descriptors, timers, and wake-ups from other threads.

Knows no HTTP and no child. One thread runs it; only `call_from_thread` may be called from another.

Level-triggered, on epoll; `selectors` costs every event three microseconds more and serves where there is none. In one
turn it waits, runs the callbacks of the descriptors that are ready, then what
`call_soon` had collected before the turn's end, then the timers that are due. `now` is the monotonic clock as read once
after the wait: everything that happens in one turn happens at one time, and costs one clock call.

A callback may unregister any descriptor, also one whose event is still to be delivered in this turn. The loop does not
check for that (it would cost every event a lookup): whoever closes a descriptor must ignore events that come after.
Exceptions of callbacks leave `run`: who registers a callback knows what a failure means, the loop does not.
"""

from __future__ import annotations

import heapq
import os
import select
import selectors
from collections import deque
from collections.abc import Callable
from time import monotonic

# epoll's own numbers. What it says beyond (an error, a hang-up) is told as everything that was waited for.
READ = 1
WRITE = 4
_BOTH = READ | WRITE
_EVENTS_PER_TURN = 256


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
        self._poller = select.epoll() if hasattr(select, "epoll") else _Selector()
        # A descriptor registered with no event is here only: epoll would go on to tell of its hang-up.
        self._entries: dict[int, tuple[int, Callable[[int], None]]] = {}
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
            self._poller.register(fd, events)
        self._entries[fd] = (events, callback)

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on a registered descriptor; its callback stays."""
        before, callback = self._entries[fd]
        if events and before:
            self._poller.modify(fd, events)
        elif events:
            self._poller.register(fd, events)
        elif before:
            self._poller.unregister(fd)
        self._entries[fd] = (events, callback)

    def rebind(self, fd: int, callback: Callable[[int], None]) -> None:
        """Give a registered descriptor another callback; its events stay. Costs no system call."""
        self._entries[fd] = (self._entries[fd][0], callback)

    def unregister(self, fd: int) -> None:
        """Forget a registered descriptor; to be called before it is closed."""
        if self._entries.pop(fd)[0]:
            self._poller.unregister(fd)

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
        poll, entries, soon, timers = self._poller.poll, self._entries, self._soon, self._timers
        self.now = now = monotonic()
        while not self._stopping:
            if soon:
                timeout = 0.0
            elif timers:
                timeout = timers[0][0] - now  # of the last turn: a timer may be late by as long as that took
                if timeout < 0.0:
                    timeout = 0.0
            else:
                timeout = -1.0
            polled = poll(timeout, _EVENTS_PER_TURN)
            self.now = now = monotonic()
            # All looked up before the first is called: a callback may close a descriptor and open it as another.
            for (wanted, callback), events in [(entries[fd], events) for fd, events in polled if fd in entries]:
                callback(events if events <= _BOTH else wanted)
            if soon:
                for _ in range(len(soon)):
                    soon.popleft()()
            while timers and timers[0][0] <= now:
                heapq.heappop(timers)[2]._fire()

    def close(self) -> None:
        """Release the loop's own descriptors. What others registered stays theirs."""
        self._poller.close()
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


class _Selector:
    """What the loop needs of epoll, for systems without it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, _to_selectors(events))

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, _to_selectors(events))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [(key.fd, _from_selectors(events)) for key, events in ready]

    def close(self) -> None:
        self._selector.close()


def _to_selectors(events: int) -> int:
    read = selectors.EVENT_READ if events & READ else 0
    return read | (selectors.EVENT_WRITE if events & WRITE else 0)


def _from_selectors(events: int) -> int:
    return (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0)
