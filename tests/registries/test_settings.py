"""Where to install from reaches the agent; what opens the door there does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.policy.resolve import Place
from nono.registries.settings import GO, NPM, PIP, excerpt, hand_over

PIP_CONF = """\
# the company's
[global]
index-url = https://me:secret@packages.example-corp.test/simple/
extra-index-url =
    https://more.example-corp.test/simple/
    https://to:ken@other.example-corp.test/simple/
timeout = 60
proxy = http://me:secret@proxy.example-corp.test:8080
[install]
trusted-host: packages.example-corp.test
"""
NPMRC = """\
registry=https://me:secret@packages.example-corp.test/npm/
@acme:registry=https://acme.example-corp.test/
//acme.example-corp.test/:_authToken=npm_secret
_auth=c2VjcmV0
email=me@example.org
"""


def test_indexes_are_copied_without_user_and_password() -> None:
    copy = excerpt(PIP_CONF, PIP)
    assert "index-url=https://packages.example-corp.test/simple/\n" in copy
    assert "    https://more.example-corp.test/simple/\n" in copy
    assert "    https://other.example-corp.test/simple/\n" in copy
    assert "trusted-host:packages.example-corp.test\n" in copy
    assert not [word for word in ("secret", "ken", "me:", "proxy", "timeout") if word in copy]


@pytest.mark.parametrize(
    "line",
    [
        "registry=https://a:b/c@host.example.org/", "registry=https://host.example.org/?token=secret",
        "registry=https://host.example.org/#secret", "registry=secret", "registry", "registry=https://${TOKEN}/",
        "//host.example.org/:_password=secret", "  //host.example.org/:_authToken=secret", "@acme:_authToken=secret",
        "[registry]\nregistry=https://host.example.org/", "[secret]",
    ],
)  # fmt: skip
def test_what_may_be_a_credential_is_left_out(line: str) -> None:
    assert excerpt(line, NPM) == ""


@pytest.mark.parametrize("indent", [" ", "    ", "\t", "\f", "\v", "\u00a0"])
@pytest.mark.parametrize(
    "secret", ["//host.example.org/:_authToken=s3cr3t", "_password = s3cr3t", "_auth=s3cr3t", "s3cr3t", "pw s3cr3t"]
)
def test_an_indented_credential_is_no_value_of_the_option_above(indent: str, secret: str) -> None:
    npm = excerpt(f"@acme:registry=https://acme.example.org/\n{indent}{secret}\n{indent}registry=https://h.org/", NPM)
    assert npm == "@acme:registry=https://acme.example.org/\nregistry=https://h.org/\n"
    assert excerpt(f"GOPROXY=https://h.org\n{indent}{secret}", GO) == "GOPROXY=https://h.org\n"
    pip = f"index-url = https://h.org/\n{indent}{secret}\ntrusted-host = h.org"
    assert excerpt(pip, PIP) == "index-url=https://h.org/\ntrusted-host=h.org\n"


def test_what_follows_an_address_is_left_out() -> None:
    assert excerpt("index-url = https://a.org/ ; pw=x", PIP) == "index-url=https://a.org/\n"
    assert excerpt("trusted-host = a.org pw\n  password = x\n  b.org", PIP) == "trusted-host=a.org\n    b.org\n"
    assert excerpt("password = x\n  https://a.org/", PIP) == ""
    sums = "GOSUMDB=sum.org+033de0ae+Ac4z https://u:p@h.org/sum x"
    assert excerpt(sums, GO) == "GOSUMDB=sum.org+033de0ae+Ac4z https://h.org/sum\n"


def test_a_variable_names_each_copy(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    (home / ".config" / "pip").mkdir(parents=True)
    scratch.mkdir()
    (home / ".config" / "pip" / "pip.conf").write_text(PIP_CONF)
    (home / ".npmrc").write_text(NPMRC)
    place = Place(str(home), "/", "/tmp", f"{home}/.config", f"{home}/.local/state", "/run/user/1")
    assert hand_over(place, {"PIP_CONFIG_FILE": "/x", "NPM_CONFIG_USERCONFIG": "/y"}, str(scratch)) == {}
    variables = hand_over(place, {}, str(scratch))
    assert set(variables) == {"PIP_CONFIG_FILE", "npm_config_userconfig"}
    npm = Path(variables["npm_config_userconfig"])
    assert npm.read_text() == (
        "registry=https://packages.example-corp.test/npm/\n@acme:registry=https://acme.example-corp.test/\n"
    )
    assert npm.parent == scratch
    assert os.stat(npm).st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".npmrc").mkdir(parents=True)
    place = Place(str(home), "/", "/tmp", f"{home}/.config", f"{home}/.local/state", "/run/user/1")
    before = os.listdir("/proc/self/fd")
    assert hand_over(place, {}, str(tmp_path)) == {}
    assert len(os.listdir("/proc/self/fd")) == len(before)
