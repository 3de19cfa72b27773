"""Bundles that were changed anywhere: no crash, no other identity, and nothing but a BundleError."""

from __future__ import annotations

import json
from base64 import b64decode
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nono.trust import keyless, signing
from nono.trust.bundle import INSTRUCTION_FILE, Bundle
from nono.trust.errors import BundleError
from nono.trust.policy import Keyless
from nono.trust.trusted_root import TrustRoot
from tests.trust.sigstore_world import ISSUER, REF, REPOSITORY, SIGNER_URI, WORKFLOW, World, read, text

PAYLOAD = signing.statement([("SKILL.md", "0" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})
JOB = Keyless(ISSUER, REPOSITORY, WORKFLOW, REF, SIGNER_URI, SIGNER_URI)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def root(world: World) -> TrustRoot:
    return world.trust_root()


def same_or_refused(bundle: Bundle, raw: bytes, root: TrustRoot) -> None:
    """What was changed does not verify, unless nothing that counts was: then it says the same."""
    try:
        identity = keyless.identity_of(bundle._replace(raw=raw), root)
    except BundleError:
        return
    assert identity == JOB


@pytest.fixture(scope="module")
def whole(world: World) -> dict[str, Any]:
    return world.bundle(PAYLOAD)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_bytes_never_crash_and_never_verify(
    whole: dict[str, Any], root: TrustRoot, data: st.DataObject
) -> None:
    bundle = read(whole)
    raw = bytearray(bundle.raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert", "truncate"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
            case _:
                del raw[at + 1 :]
        if not raw:
            break
    same_or_refused(bundle, bytes(raw), root)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=20), st.just([]), st.just({}),
    st.binary(max_size=40).map(text), st.integers(-(2**70), 2**70).map(str),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_values_never_crash_and_never_verify(
    whole: dict[str, Any], root: TrustRoot, data: st.DataObject
) -> None:
    bundle, changed = read(whole), deepcopy(whole)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, below in items:
            places.append((value, key))
            walk(below)

    walk(changed)
    container, key = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        container[key] = data.draw(VALUES)
    else:
        del container[key]
    same_or_refused(bundle, json.dumps(changed).encode(), root)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_certificates_never_crash_and_never_verify(
    whole: dict[str, Any], root: TrustRoot, data: st.DataObject
) -> None:
    bundle, changed = read(whole), deepcopy(whole)
    certificate = bytearray(b64decode(changed["verificationMaterial"]["certificate"]["rawBytes"]))
    for _ in range(data.draw(st.integers(1, 3))):
        certificate[data.draw(st.integers(0, len(certificate) - 1))] ^= data.draw(st.integers(1, 255))
    changed["verificationMaterial"]["certificate"]["rawBytes"] = text(bytes(certificate))
    same_or_refused(bundle, json.dumps(changed).encode(), root)
