"""Every error that nono raises, named after the party who must act.

Each message is one sentence (or two: what is wrong, what to do next). Errors of other libraries are translated once, at
the edge of the room that called them. Where a secret was in reach, the translation is a fixed text raised `from None`,
because a third party's error may quote its input.
"""

from __future__ import annotations

import os

GRANT = " The operator can grant it with "  # in a refusal's message, before the flag


class NonoError(Exception):
    """Base of all errors shown to a user; `exit_status` is what the command line exits with.

    details: of an error about many things, a line for each of them, to follow the sentence.
    """

    exit_status = 1
    details: tuple[str, ...] = ()


class UsageError(NonoError):
    """The operator's command line is wrong."""

    exit_status = 2


class PolicyError(NonoError):
    """The operator's profile or the policy made from it is wrong."""

    exit_status = 2


class CommandNotFound(NonoError):
    """The command does not exist; 127 as a shell has it."""

    exit_status = 127


class CommandNotExecutable(NonoError):
    """The command exists but cannot be executed; 126 as a shell has it."""

    exit_status = 126


class CredentialError(NonoError):
    """The keystore does not give the credential. Never carries the credential."""


class StoreError(NonoError):
    """One of nono's own files cannot be read or written."""


class KernelError(NonoError, OSError):
    """A system call failed. `call` names it (as in its man page), `errno` is the kernel's answer."""

    def __init__(self, call: str, errno: int, message: str = "") -> None:
        self.call = call
        text = message or f"{call}: {os.strerror(errno)}"
        OSError.__init__(self, errno, text)

    def __str__(self) -> str:
        return str(self.args[1])


class Refusal(NonoError):
    """The agent asked for what it may not have; `status` and `code` go on the wire, the message says what to do.

    unlisted: what it asked for is not denied, but not in the allowlist either, as far as that is known.
    flag: what would grant it, which the message then says, too; "" for nothing.
    """

    unlisted = False

    def __init__(self, status: int, code: str, message: str, flag: str = "") -> None:
        super().__init__(f"{message}{GRANT}{flag}" if flag else message)
        self.status = status
        self.code = code
        self.flag = flag


class UpstreamError(NonoError):
    """The remote failed; `status` (502, 503 or 504) and `code` are what the agent is answered.

    address: which literal address and port it is about; empty when none was dialled.
    """

    address = ""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
