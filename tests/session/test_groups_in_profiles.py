"""Groups of a profile, as the kernel has them: one pair of what is allowed and what is denied for each rule."""

from __future__ import annotations

import json

import pytest

from tests.runs import Site

FILES = (
    ".gitconfig",
    ".cargo/registry/crate",
    ".cargo/credentials.toml",
    ".cache/pip/wheel",
    ".cache/huggingface/token",
    ".m2/repository/artifact",
    ".m2/settings.xml",
)


@pytest.fixture
def files(site: Site) -> Site:
    for name in FILES:
        path = site.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")
    return site


def read(site: Site, groups: object, *names: str) -> dict[str, bool]:
    """Return which of the files in the home directory can be read with these groups, as the kernel decides."""
    path = site.vault / "profile.json"
    path.write_text(json.dumps({"groups": groups}))
    done = site.run(["-p", str(path)], ["sh", "-c", f"cd {site.home}; cat {' '.join(names)}; true"])
    assert done.returncode == 0, done.stderr
    return {name: f"text of {name}\n" in done.stdout for name in names}


def test_every_run_has_the_default_groups_and_a_profile_can_leave_one_out(files: Site) -> None:
    assert read(files, {}, ".gitconfig") == {".gitconfig": True}
    assert read(files, {"exclude": ["git_config"]}, ".gitconfig") == {".gitconfig": False}
    assert read(files, {"include": ["git_config"], "exclude": ["git_config"]}, ".gitconfig") == {".gitconfig": False}


@pytest.mark.parametrize(
    ("group", "granted", "denied"),
    [
        ("rust_runtime", ".cargo/registry/crate", ".cargo/credentials.toml"),
        ("java_runtime", ".m2/repository/artifact", ".m2/settings.xml"),
        ("user_caches_linux", ".cache/pip/wheel", ".cache/huggingface/token"),
    ],
)
def test_an_included_group_grants_what_it_says_and_no_secret_in_it(
    files: Site, group: str, granted: str, denied: str
) -> None:
    assert read(files, {}, granted, denied) == {granted: False, denied: False}
    assert read(files, {"include": [group]}, granted, denied) == {granted: True, denied: False}


def test_a_group_of_another_system_changes_nothing(files: Site) -> None:
    assert read(files, {"include": ["user_caches_macos", "vscode_macos"]}, ".cache/pip/wheel") == {
        ".cache/pip/wheel": False
    }


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"exclude": ["deny_credentials"]}, "groups.exclude[0]: deny_credentials (logins, tokens"),
        ({"exclude": ["deny_nono"]}, "is never left out"),
        (
            {"include": ["rust_runtim"]},
            "groups.include[0]: there is no group 'rust_runtim'; did you mean rust_runtime?",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_nothing_starts(files: Site, groups: object, said: str) -> None:
    path = files.vault / "profile.json"
    path.write_text(json.dumps({"groups": groups}))
    done = files.run(["-p", str(path)], ["echo", "started"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"profile {path}: " in done.stderr
    assert said in done.stderr
