"""Maven finds the run's proxy and the user's mirrors; no password of the user's reaches the agent with them."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nono.policy.resolve import Place
from nono.registries.maven import VARIABLE, hand_over, mirrors
from nono.registries.settings import has_maven

MIRROR = (
    "<mirror><id>company</id><mirrorOf>*,!local</mirrorOf><url>https://{}maven.example-corp.test/all</url></mirror>"
)
SETTINGS = f"""\
<settings xmlns="urn:maven:settings">
  <!-- <mirror><id>old</id><mirrorOf>*</mirrorOf><url>https://old.example-corp.test/</url></mirror> -->
  <mirrors>
    {MIRROR.format("me:secret@")}
    <mirror><id>blocked</id><mirrorOf>external:http:*</mirrorOf><url>http://0.0.0.0/</url><blocked>true</blocked></mirror>
  </mirrors>
  <servers><server><id>company</id><username>me</username><password>secret</password></server></servers>
  <proxies><proxy><host>proxy.example-corp.test</host><password>secret</password></proxy></proxies>
</settings>
"""


def place(home: Path | str) -> Place:
    return Place(str(home), "/work", "/tmp", f"{home}/.config", f"{home}/.local/state", "")


def test_a_mirror_is_copied_and_nothing_beside_it() -> None:
    assert mirrors(SETTINGS) == f"<mirrors>{MIRROR.format('')}</mirrors>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "https://host.example.org/?token=secret"),
        ("url", "https://${env.TOKEN}/"),
        ("url", "https://host.example.org/</url><password>secret</password><url>"),
        ("url", "secret"),
        ("id", "a b"),
        ("id", "<b/>"),
        ("mirrorOf", "${secret}"),
        ("mirrorOf", ""),
    ],
)
def test_a_field_that_is_not_of_its_form_leaves_its_mirror_out(field: str, value: str) -> None:
    fields = {"id": "m", "mirrorOf": "*", "url": "https://m.example.org/", field: value}
    text = "".join(f"<{name}>{each}</{name}>" for name, each in fields.items())
    copy = mirrors(f"<mirror>{text}</mirror>")
    assert "secret" not in copy
    assert "${" not in copy
    ElementTree.fromstring(copy)


@pytest.mark.parametrize(
    "text", ["", "<mirror>", "<mirror></mirror>", "no XML &", "<mirror><mirror></mirror></mirror>"]
)
def test_what_is_no_settings_has_no_mirrors(text: str) -> None:
    assert mirrors(text) == "<mirrors></mirrors>"


def test_settings_name_the_proxy_and_are_for_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(SETTINGS)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = hand_over(place(tmp_path), str(scratch), port=4321, token="ab" * 32, no_proxy=["redis", "a|b</x>"])
    assert made[VARIABLE].split()[0] == f"-Duser.home={scratch}"
    path = scratch / ".m2" / "settings.xml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret" not in path.read_text()
    proxies = ElementTree.parse(path).getroot().findall("proxies/proxy")
    assert [proxy.findtext("protocol") for proxy in proxies] == ["http", "https"]
    for proxy in proxies:
        assert [proxy.findtext(name) for name in ("host", "port", "username", "password", "active")] == [
            "127.0.0.1", "4321", "nono", "ab" * 32, "true",
        ]  # fmt: skip
        assert proxy.findtext("nonProxyHosts") == "localhost|127.*|[::1]|redis"


def test_a_directory_that_a_shell_would_take_apart_is_not_named(tmp_path: Path) -> None:
    directory = tmp_path / "a $(b)"
    directory.mkdir()
    assert hand_over(place(tmp_path), str(directory), port=1, token="t", no_proxy=()) == {}
    assert os.listdir(directory) == []


def test_is_for_whoever_can_run_maven(tmp_path: Path) -> None:
    assert not has_maven({"PATH": str(tmp_path)}, str(tmp_path))
    (tmp_path / "mvn").touch()
    assert has_maven({"PATH": f"/nowhere:{tmp_path}"}, "/nowhere")
    (tmp_path / "mvnw").touch()
    assert has_maven({}, str(tmp_path))
