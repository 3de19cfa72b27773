"""Sizes, durations and counts as a user writes them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import UsageError
from nono.policy.quantities import parse_count, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("2G", 2 << 30), ("2g", 2 << 30), ("1.5G", 3 << 29), ("4096K", 4 << 20), ("1T", 1 << 40),
     ("2GB", 2 << 30), ("2GiB", 2 << 30), ("1048576", 1 << 20), ("2000000b", 2000000)],
)  # fmt: skip
def test_reads_a_size(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1G", "+1G", "1e9", "1 G", "1X", "0x10M", "0", "512", "9" * 50, "1.2.3G", "1048576.5", "٣G", "2000T"],
)
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory .*512M"):
        parse_size(text, "--memory")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.5", 0.5), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("1d", 86400)],
)
def test_reads_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1w", "1M", "m", "inf", "nan", "1h30m", "9999999999999", "366d"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout "):
        parse_duration(text, "--timeout")


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "100k", "²", "9999999999"])
def test_refuses_what_is_no_count(text: str) -> None:
    assert parse_count("100", "--max-processes") == 100
    with pytest.raises(UsageError, match=r"--max-processes .*whole number"):
        parse_count(text, "--max-processes")


@given(st.text())
def test_is_a_number_or_one_sentence(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_count):
        with suppress(UsageError):
            assert parse(text, "--flag") > 0
