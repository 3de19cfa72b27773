"""What --bypass-protection lifts, and what it never does."""

from __future__ import annotations

import pytest

from nono.errors import UsageError
from nono.policy.capabilities import READ, WRITE, PathDeny
from nono.policy.inherit import of_text
from nono.policy.protection import bypass
from nono.policy.resolve import Place, Request, resolve

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1")


def denied(request: Request, profile: str = "") -> dict[str, PathDeny]:
    capabilities = resolve(request, of_text(profile, "p") if profile else None, PLACE)
    return {deny.path: deny for deny in capabilities.denies}


def test_lifts_exactly_the_protection_that_is_named() -> None:
    before, after = denied(Request()), denied(Request(bypass_protection=("~/.aws",)))
    assert before["/home/u/.aws"].group == "deny_credentials"
    assert before.keys() - after.keys() == {"/home/u/.aws"}
    assert all(deny == before[path] for path, deny in after.items())


def test_a_path_below_a_protected_one_is_a_hole_in_it() -> None:
    before, after = denied(Request()), denied(Request(bypass_protection=("~/.aws/credentials", "~/.aws/config/x")))
    assert after.pop("/home/u/.aws").holes == ("/home/u/.aws/credentials", "/home/u/.aws/config/x")
    assert all(deny == before[path] for path, deny in after.items())


def test_a_path_that_two_groups_protect_is_lifted_from_both() -> None:
    after = denied(Request(bypass_protection=("/run/user/1",)))
    assert "/run/user/1" not in after
    assert after["/run/user"].holes == ("/run/user/1",)
    capabilities = resolve(Request(bypass_protection=("/run/user/1", "/run/user/1/bus")), None, PLACE)
    assert capabilities.bypassed == ("/run/user/1", "/run/user/1/bus")


def test_it_grants_nothing() -> None:
    assert resolve(Request(bypass_protection=("~/.aws",)), None, PLACE).grants == resolve(Request(), None, PLACE).grants


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("~/.config/nono", "nono's own settings and state .*leave it out"),
        ("~/.local/state/nono/credentials/x", "nono's own settings and state .*leave it out"),
        ("~/aws", "did you mean /home/u/.aws"),
        ("~/.awz", "did you mean /home/u/.aws"),
        ("~/.config", "not protected itself, only in it /home/u/.config/.* more; name what"),
        ("/", "not protected itself, only in it .* and [0-9]+ more"),
        ("~/src", "nothing to bypass; grant it with --read or --allow"),
        ("", "empty"),
    ],
)
def test_refuses_what_it_cannot_lift(path: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        denied(Request(bypass_protection=(path,)))


def test_never_lifts_what_the_user_or_the_run_denies() -> None:
    own = (PathDeny("/a", "--deny"), PathDeny("/b", "profile"), PathDeny("/c", "credential_files", READ | WRITE))
    for deny in own:
        with pytest.raises(UsageError):
            bypass(own, [deny.path], "--bypass-protection")
    after = denied(Request(deny=("~/.aws",), bypass_protection=("~/.aws/config",)))
    assert after["/home/u/.aws"] == PathDeny("/home/u/.aws", "--deny")


def test_the_profile_denies_and_lifts_too() -> None:
    text = '{"filesystem": {"deny": ["$WORKDIR/secret"], "bypass_protection": ["~/.aws"]}}'
    after = denied(Request(bypass_protection=("~/.aws",), deny=("x",)), text)
    assert after["/home/u/app/secret"].group == "profile"
    assert after["/home/u/app/x"].group == "--deny"
    assert "/home/u/.aws" not in after


def test_refuses_to_deny_everything() -> None:
    with pytest.raises(UsageError, match="deny everything"):
        denied(Request(deny=("/etc/..",)))
