"""The name that was meant by one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, names: Iterable[str]) -> str:
    """Return which of `names` was probably meant by `word`: one mistyped letter in three at the most; "" for none."""
    distance, name = min(((_distance(word.lower(), name.lower()), name) for name in names), default=(1, ""))
    return name if distance <= max(1, (len(word.lstrip("-")) + 1) // 3) and distance < len(name.lstrip("-")) else ""


def _distance(one: str, other: str) -> int:
    """Return how many letters must be added, left out, replaced or swapped with the next to make `other` of `one`.

    Source: the optimal string alignment distance.
    """
    if abs(len(one) - len(other)) > 8:
        return 9
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, last, row = row, before, [at]
        for index, wanted in enumerate(other, 1):
            cost = min(before[index] + 1, row[-1] + 1, before[index - 1] + (letter != wanted))
            if at > 1 and index > 1 and letter == other[index - 2] and one[at - 2] == wanted:
                cost = min(cost, last[index - 2] + 1)
            row.append(cost)
    return row[-1]
