"""The D-Bus marshaller and reader, against jeepney's and against anything at all."""

from __future__ import annotations

from typing import Any

import jeepney
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney.low_level import parse_signature

from nono.credentials import dbus

NUMBERS = {
    "y": st.integers(0, 2**8 - 1),
    "n": st.integers(-(2**15), 2**15 - 1),
    "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(allow_nan=False),
    "b": st.booleans(),
    "s": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    "o": st.sampled_from(["/", "/org/freedesktop/secrets", "/a/b_1"]),
    "g": st.sampled_from(["", "s", "a{sv}", "(oayays)"]),
}


def kinds() -> st.SearchStrategy[str]:
    basic = st.sampled_from(sorted(NUMBERS))
    return st.recursive(
        basic | st.sampled_from(["v", "ay"]),
        lambda inner: (
            inner.map("a{}".format)
            | st.lists(inner, min_size=1, max_size=3).map(lambda members: f"({''.join(members)})")
            | st.tuples(basic, inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}")
        ),
        max_leaves=5,
    )


def values(kind: str) -> st.SearchStrategy[Any]:
    if kind in NUMBERS:
        return NUMBERS[kind]
    if kind == "v":
        return st.sampled_from(["s", "u", "ay", "as"]).flatmap(lambda inner: st.tuples(st.just(inner), values(inner)))
    if kind == "ay":
        return st.binary(max_size=9)
    if kind.startswith("a{"):
        key, value = dbus.split(kind[2:-1])
        return st.dictionaries(values(key), values(value), max_size=3)
    if kind.startswith("a"):
        return st.lists(values(kind[1:]), max_size=3)
    return st.tuples(*map(values, dbus.split(kind[1:-1])))


TYPED = kinds().flatmap(lambda kind: st.tuples(st.just(kind), values(kind)))


@given(st.lists(TYPED, max_size=4))
def test_marshals_as_jeepney_does(typed: list[tuple[str, Any]]) -> None:
    signature, body = "".join(kind for kind, _ in typed), tuple(value for _, value in typed)
    data = dbus.method_call(7, "org.example.Name", "/a/b", "org.example.Interface", "Method", signature, body)
    message = jeepney.Parser().feed(data)[0]
    assert message.header.serial == 7
    assert message.header.fields.get(jeepney.HeaderFields.signature, "") == signature
    assert message.header.fields[jeepney.HeaderFields.member] == "Method"
    assert message.body == body
    assert data.endswith(_serialised(signature, body))


def _serialised(signature: str, body: tuple[Any, ...]) -> bytes:
    return bytes(parse_signature(list(f"({signature})")).serialise(body, 0, jeepney.Endianness.little)) if body else b""


@given(st.lists(TYPED, max_size=4), st.sampled_from(jeepney.Endianness))
def test_reads_what_jeepney_marshals(typed: list[tuple[str, Any]], order: jeepney.Endianness) -> None:
    signature, body = "".join(kind for kind, _ in typed), tuple(value for _, value in typed)
    address = jeepney.DBusAddress("/a", bus_name="org.example.Name", interface="org.example.Interface")
    message = jeepney.new_method_call(address, "Method", signature or None, body)
    message.header.endianness = order
    wire = message.serialise(serial=3)
    assert dbus.message_bytes(wire[: dbus.HEAD_BYTES]) == len(wire)
    for memory in (wire, memoryview(bytearray(wire))):
        message_read = dbus.parse(memory)
        assert message_read.kind == dbus.METHOD_CALL
        assert message_read.fields[dbus.MEMBER] == "Method"
        assert message_read.body == body


def test_arrays_of_bytes_are_slices_of_the_memory_that_was_read() -> None:
    data = bytearray(dbus.method_call(1, "a.b", "/", "a.b", "C", "(ays)", ((b"secret", "text"),)))
    ((value, text),) = dbus.parse(memoryview(data)).body
    assert (bytes(value), text) == (b"secret", "text")
    data[data.index(b"secret")] = ord("S")
    assert bytes(value) == b"Secret"


@given(st.binary(max_size=200), st.integers(0, 5))
def test_survives_anything(tail: bytes, cut: int) -> None:
    head = dbus.method_call(1, "a.b", "/", "a.b", "C", "a{sv}", ({"k": ("s", "v")},))
    for data in (tail, b"l\1\0\1" + tail, head[: len(head) - cut] + tail, head[:16] + tail + head):
        try:
            dbus.message_bytes(data[: dbus.HEAD_BYTES])
            dbus.parse(data)
        except Exception as error:  # noqa: BLE001  (what Bus turns into a status)
            assert not isinstance(error, MemoryError)  # noqa: PT017


@given(st.text("ybnqiuxtdsogvah(){}", max_size=12), st.binary(max_size=64))
def test_reading_any_signature_ends(signature: str, data: bytes) -> None:
    try:
        for kind in dbus.split(signature):
            dbus.Reader(data, 0, "<").read(kind)
    except (ValueError, LookupError, dbus.struct.error):  # UnicodeDecodeError is a ValueError
        pass


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:path=/run/user/1/bus", [b"/run/user/1/bus"]),
        ("unix:guid=00,path=/a%20b%2c,x=", [b"/a b,"]),
        ("unix:abstract=/tmp/dbus-1,guid=0", [b"\0/tmp/dbus-1"]),
        ("tcp:host=localhost,port=1;unix:path=/a;unix:path=/b", [b"/a", b"/b"]),
        ("unixexec:path=/bin/sh", []),
        ("unix:path=/a%2", []),
        ("unix:path=/a%zz;", []),
        ("unix:;;nonsense", []),
    ],
)
def test_reads_addresses(monkeypatch: pytest.MonkeyPatch, address: str, expected: list[bytes]) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    assert dbus.session_bus_addresses() == expected
