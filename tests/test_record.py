"""A Record is a NamedTuple, but for what it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest

from nono.record import Record


class Light(Record):
    a: int
    b: str = "b"
    c: tuple[int, ...] = ()


class Real(NamedTuple):
    a: int
    b: str = "b"
    c: tuple[int, ...] = ()


@pytest.mark.parametrize("arguments", [((1,), {}), ((1, "x"), {}), ((1,), {"c": (2,)}), ((), {"c": (), "a": 0})])
def test_equals_the_named_tuple_made_alike(arguments: tuple[tuple[int, ...], dict[str, object]]) -> None:
    args, named = arguments
    light, real = Light(*args, **named), Real(*args, **named)  # type: ignore[arg-type]
    assert {light: 1}[real] == 1  # type: ignore[index]
    assert (light.a, light.b, light.c) == tuple(real)
    assert light._asdict() == real._asdict()
    assert repr(light).partition("(")[2] == repr(real).partition("(")[2]
    assert light._replace(a=9) == real._replace(a=9)
    assert Light._fields == Real._fields


@pytest.mark.parametrize("arguments", [((), {}), ((1, "x", (), 4), {}), ((1,), {"d": 1}), ((1,), {"a": 1})])
def test_refuses_what_a_named_tuple_refuses(arguments: tuple[tuple[int, ...], dict[str, int]]) -> None:
    args, named = arguments
    for kind in (Light, Real):
        with pytest.raises(TypeError):
            kind(*args, **named)  # type: ignore[arg-type]


def test_cannot_be_changed() -> None:
    for thing in (Light(1), Real(1)):
        with pytest.raises(AttributeError):
            thing.a = 2  # type: ignore[misc]


def test_the_start_path_does_without_typing() -> None:
    """The whole of `nono run` up to the spawn imports neither typing nor anything else that is slow."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import nono.cli.run; print(*sorted(sys.modules))"
    root = __file__.rpartition("/tests/")[0]
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {sys.path!r}\n{code}", root],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"typing", "dataclasses", "pathlib", "subprocess", "inspect", "ssl", "h11", "msgspec"} & set(loaded)
