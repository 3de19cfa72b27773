"""One credential in the supervisor: exactly the secret, in locked memory, until it is wiped."""

from __future__ import annotations

from nono.credentials import validation
from nono.kernel.secretmem import SecretBuffer


class Credential:
    """A valid credential. `view` is exactly the secret; there is no other copy, so make none: slice-assign from it.

    name: the credential_key it was asked for by. store: where it was found, in the user's words.
    """

    __slots__ = ("_buffer", "length", "name", "store", "view")

    def __init__(
        self, name: str, store: str, buffer: SecretBuffer, raw_length: int, what: str, *, for_signing: bool = False
    ) -> None:
        """Take over `buffer`, whose first `raw_length` bytes are what the source holds.

        what: the credential in the user's words, for the error. for_signing: it is for no header, and may have several
        lines (PEM). Raises CredentialError (and wipes the buffer).
        """
        self.name = name
        self.store = store
        self._buffer: SecretBuffer | None = buffer
        try:
            with buffer.view[:raw_length] as raw:
                self.length = validation.trimmed_length(raw) if for_signing else validation.check(raw, what)
        except BaseException:
            buffer.close()
            raise
        with buffer.view[self.length :] as rest:
            for index in range(raw_length - self.length):
                rest[index] = 0
        self.view = buffer.view[: self.length]

    def close(self) -> None:
        """Wipe the secret and give its memory back; again is harmless."""
        if self._buffer is None:
            return
        self._buffer.wipe()
        self.view.release()
        self._buffer.close()
        self._buffer = None

    def __repr__(self) -> str:
        return f"<Credential {self.name}>"

    def __reduce__(self) -> str:
        raise TypeError("a Credential cannot be copied or pickled")
