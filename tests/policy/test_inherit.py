"""`extends`: several profiles, one result; who wrote what; and never more than they say between them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY
from nono.policy.conditions import Facts
from nono.policy.inherit import BUILT_IN, Inherited, Source, inherit
from nono.policy.paths import Place
from nono.policy.resolve import Request, resolve

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1", uid="1")
FEDORA = Facts("linux", "fedora", (), "43")


def merged(*names: str, **texts: Any) -> Inherited:
    """Inherit from profiles that are given as objects, by name; without names, the last of them."""

    def read(name: str, referrer: str) -> Source | None:
        if name not in texts:
            return None
        text = texts[name]
        return Source(name, f"/p/{name}.json", text if isinstance(text, str) else json.dumps(text))

    return inherit(names or [list(texts)[-1]], read, lambda: FEDORA)


def fails(*names: str, **texts: Any) -> str:
    with pytest.raises(PolicyError) as error:
        merged(*names, **texts)
    return str(error.value)


def test_lists_add_up_once_each_base_first() -> None:
    found = merged(
        base={"filesystem": {"read": ["/a", "/b"]}, "network": {"open_port": [1, 2]}},
        child={"extends": "base", "filesystem": {"read": ["/c", "/a"]}, "network": {"open_port": [2, 3]}},
    )
    assert found.profile.filesystem.read == ("/a", "/b", "/c")
    assert found.profile.network.open_port == (1, 2, 3)
    assert found.lineage == (("base", "/p/base.json"), ("child", "/p/child.json"))
    assert found.origin("filesystem.read", "/a") == "profile base"
    assert found.origin("filesystem.read", "/c") == "profile child"
    assert found.place("filesystem.read", "/c") == "profile /p/child.json: filesystem.read[0]"
    assert found.origins["network.open_port", "3"] == "child"


def test_maps_and_values_are_the_childs_where_it_gives_them() -> None:
    found = merged(
        base={
            "workdir": {"access": "readwrite"},
            "environment": {"set_vars": {"A": "1", "B": "1"}},
            "env_credentials": {"k": "K", "l": "L"},
            "meta": {"name": "b", "author": "me"},
        },
        child={"extends": "base", "environment": {"set_vars": {"B": "2"}}, "env_credentials": {"l": "M"}},
        last={"extends": ["child"], "workdir": {"access": "read"}, "meta": {"name": "l"}},
    )
    assert found.profile.environment.set_vars == {"A": "1", "B": "2"}
    assert found.profile.env_credentials == {"k": "K", "l": "M"}
    assert found.profile.workdir.access == "read"
    assert found.profile.meta == ("l", "", "", "me")
    assert found.origins["environment.set_vars", "A"] == "base"
    assert found.origins["environment.set_vars", "B"] == "child"
    assert found.origins["workdir.access", "read"] == "last"


def test_several_bases_are_merged_from_left_to_right_and_shared_ones_once() -> None:
    found = merged(
        root={"filesystem": {"read": ["/root"]}, "workdir": {"access": "none"}},
        left={"extends": "root", "filesystem": {"read": ["/left"]}, "workdir": {"access": "read"}},
        right={"extends": "root", "filesystem": {"read": ["/right"]}},
        child={"extends": ["left", "right"]},
    )
    assert [name for name, _ in found.lineage] == ["root", "left", "right", "child"]
    assert found.profile.filesystem.read == ("/root", "/left", "/right")
    assert found.profile.workdir.access == "read"  # the shared base does not come again after left


def test_those_of_the_flag_come_below_the_profile() -> None:
    texts = {"one": {"workdir": {"access": "read"}}, "two": {"workdir": {"access": "write"}}}
    assert merged("one", "two", **texts).profile.workdir.access == "write"
    assert merged("two", "one", **texts).profile.workdir.access == "read"


def test_a_cycle_shows_its_chain() -> None:
    said = fails("a", a={"extends": "b"}, b={"extends": ["c"]}, c={"extends": "a"})
    assert "extends itself: a → b → c → a" in said
    assert "a → a" in fails("a", a={"extends": "a"})


def test_ten_levels_and_no_more() -> None:
    chain = {f"p{number}": {"extends": f"p{number + 1}"} for number in range(11)}
    assert len(merged("p1", **chain, p11={}).lineage) == 11
    assert "more than 10 levels of extends: p0 → p1 → " in fails("p0", **chain, p11={})


def test_a_base_that_there_is_not() -> None:
    assert "there is no profile 'nope'" in fails(child={"extends": "nope"})


def test_a_mistake_in_a_base_names_the_base() -> None:
    said = fails(base={"network": {"allow_domian": []}}, child={"extends": "base"})
    assert said == "profile /p/base.json: network.allow_domian is not a known key; did you mean allow_domain?"


def test_a_profile_may_extend_the_built_in_one_of_its_name() -> None:
    def read(name: str, referrer: str) -> Source:
        if referrer:
            return Source(name, BUILT_IN, '{"filesystem": {"read": ["/a"]}}')
        return Source(name, "/p/x.json", '{"extends": "x", "filesystem": {"read": ["/b"]}}')

    found = inherit(["x"], read, lambda: FEDORA)
    assert found.lineage == (("x (built-in)", BUILT_IN), ("x", "/p/x.json"))
    assert found.origin("filesystem.read", "/a") == "profile x (built-in)"
    assert found.files == ("/p/x.json",)


def test_conditions_are_judged_and_asked_about_only_where_there_are_some() -> None:
    conditional = {
        "filesystem": {"read": ["/always", {"path": "/fedora", "when": "linux:fedora:>=43"},
                                {"path": "/mac", "when": ["macos", "!linux"]}, {"path": "/plain"}]},
        "groups": {"include": [{"name": "go_runtime", "when": "macos"}]},
        "env_credentials": {"k": {"env_var": "K", "when": "linux"}, "m": {"env_var": "M", "when": "macos"}},
        "platform_overrides": {"linux": {"filesystem": {"read": ["/linux"]}, "workdir": {"access": "read"}},
                               "macos": {"filesystem": {"read": ["/mac2"]}}},
    }  # fmt: skip
    found = merged(child=conditional)
    assert found.profile.filesystem.read == ("/always", "/fedora", "/plain", "/linux")
    assert found.profile.groups.include == ()
    assert found.profile.env_credentials == {"k": "K"}
    assert found.profile.workdir.access == "read"
    assert (
        found.place("filesystem.read", "/linux") == "profile /p/child.json: platform_overrides.linux.filesystem.read[0]"
    )

    def never() -> Facts:
        raise AssertionError

    assert inherit(["x"], lambda name, _: Source(name, "/x", '{"filesystem": {"read": ["/a"]}}'), never)


def mode(*names: str, request: Request | None = None, **texts: Any) -> str:
    return resolve(request or Request(), merged(*names, **texts), PLACE).network


def test_block_stays() -> None:
    base = {"network": {"block": True}}
    assert mode(base=base, child={"extends": "base", "network": {"block": False}}) == NETWORK_BLOCKED
    named = {"extends": "base", "network": {"credentials": ["openai"], "network_profile": "developer"}}
    assert mode(base=base, child=named) == NETWORK_BLOCKED


def test_whoever_blocks_takes_what_profiles_name() -> None:
    base = {"network": {"network_profile": "developer", "credentials": ["openai"], "deny_domain": ["x.example"]}}
    child = {"extends": "base", "network": {"block": True}}
    assert mode(base=base, child=child) == NETWORK_BLOCKED
    capabilities = resolve(Request(block_net=True), merged(base=base), PLACE)
    assert (capabilities.network, capabilities.routes, capabilities.group_hosts) == (NETWORK_BLOCKED, (), ())
    with pytest.raises(UsageError, match=r"profile /p/child.json: network.block is true, and a credential needs"):
        resolve(Request(credential=("openai",)), merged(base=base, child=child), PLACE)


def test_credentials_are_cleared_by_an_empty_list_which_does_not_open_the_network() -> None:
    base = {"network": {"credentials": ["openai"]}}
    cleared = {"extends": "base", "network": {"credentials": []}}
    assert merged(base=base, child=cleared).profile.network.credentials == ()
    assert mode(base=base, child=cleared) == NETWORK_BLOCKED
    again = {"extends": "child", "network": {"credentials": ["github"]}}
    assert merged(base=base, child=cleared, again=again).profile.network.credentials == ("github",)
    assert mode(base=base, child=cleared, again=again) == NETWORK_PROXY
    assert mode(base=base, child={"extends": "base", "network": {}}) == NETWORK_PROXY


def test_null_clears_a_network_profile_and_opens_the_network() -> None:
    base = {"network": {"network_profile": "developer"}}
    child = {"extends": "base", "network": {"network_profile": None}}
    assert mode(base=base, child=child) == NETWORK_OPEN
    assert mode(base=base, child={"extends": "base", "network": {"network_profile": "minimal"}}) == NETWORK_PROXY
    proxy = merged(
        base={"network": {"upstream_proxy": "p:1"}}, child={"extends": "base", "network": {"upstream_proxy": None}}
    )
    assert proxy.profile.network.upstream_proxy == ""


def test_exclude_wins_over_include_of_another_level() -> None:
    base = {"groups": {"exclude": ["git_config"]}}
    child = {"extends": "base", "groups": {"include": ["git_config", "go_runtime"]}}
    origins = {grant.origin for grant in resolve(Request(), merged(base=base, child=child), PLACE).grants}
    assert "git_config" not in origins
    assert "go_runtime" in origins


@pytest.mark.parametrize(
    ("child", "sentence"),
    [
        ({"groups": {"include": ["go_runtme"]}},
         "groups.include[0]: there is no group 'go_runtme'; did you mean go_runtime?"),
        ({"groups": {"exclude": ["deny_credentials"]}}, "groups.exclude[0]: deny_credentials"),
        ({"network": {"credentials": ["opnai"]}},
         "network.credentials[0]: there is no credential 'opnai'; did you mean openai?"),
        ({"network": {"custom_credentials": {"x": {"upstream": "http://a.example", "credential_key": "k"}}}},
         "network.custom_credentials.x: credential 'x': upstream"),
        ({"network": {"allow_domain": ["a b"]}}, "network.allow_domain[0]: "),
        ({"network": {"no_proxy": ["a,b"]}}, "network.no_proxy[0]: "),
        ({"network": {"upstream_bypass": ["a b"]}}, "network.upstream_bypass[0]: "),
        ({"environment": {"deny_vars": ["A B"]}}, "environment.deny_vars[0]: "),
        ({"filesystem": {"unix_socket_dir": ["/run"]}}, "filesystem.unix_socket_dir[0] is refused: nono lets"),
    ],
)  # fmt: skip
def test_names_that_there_are_not_are_found_with_their_place(child: Any, sentence: str) -> None:
    assert f"profile /p/child.json: {sentence}" in fails(child=child)


def test_sockets_that_are_for_another_system_are_no_mistake() -> None:
    assert merged(child={"filesystem": {"unix_socket_dir": [{"path": "/run", "when": "macos"}]}})


def test_grants_name_the_level_that_wrote_them() -> None:
    base = {"filesystem": {"read": ["~/a"]}, "workdir": {"access": "read"}}
    child = {"extends": "base", "filesystem": {"read": ["$XDG_CACHE_HOME/b", "/run/user/$UID/c"], "deny": ["~/a/x"]}}
    capabilities = resolve(Request(), merged(base=base, child=child), PLACE)
    own = [(grant.path, grant.origin) for grant in capabilities.grants if not grant.optional]
    assert own == [
        ("/home/u/a", "profile base"),
        ("/home/u/.cache/b", "profile child"),
        ("/run/user/1/c", "profile child"),
        ("/home/u/app", "profile base"),
    ]


def test_directories_that_are_skipped_add_up() -> None:
    base, child = {"skipdirs": ["a", "b"]}, {"extends": "base", "skipdirs": ["b", "c"]}
    inherited = merged(base=base, child=child)
    assert inherited.profile.skipdirs == ("a", "b", "c")
    assert inherited.origin("skipdirs", "b") == "profile base"
    for name in ("a/b", "..", "*", ""):
        assert "profile /p/child.json: skipdirs[0]: expected the name of a directory" in fails(
            child={"skipdirs": [name]}
        )


def test_variables_of_the_place_in_what_is_set() -> None:
    text = {"environment": {"set_vars": {"A": "$XDG_CACHE_HOME/x:$UID", "B": "$HOME $XDG_CACHE_HOMES"}}}
    rules = resolve(Request(), merged(child=text), PLACE).environment
    assert rules.set_vars == (("A", "/home/u/.cache/x:1"), ("B", "$HOME $XDG_CACHE_HOMES"))
