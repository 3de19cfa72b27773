from __future__ import annotations

from nono.credentials import phantom


def test_a_token_is_64_hexadecimal_digits_and_new_each_time() -> None:
    tokens = {phantom.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 64 and not token.strip(b"0123456789abcdef") for token in tokens)
