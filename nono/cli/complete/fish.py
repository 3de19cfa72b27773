"""The script for fish: a line a flag, each with the condition under which it is offered."""

from __future__ import annotations

from nono.cli import describe
from nono.cli.complete.words import Words
from nono.cli.describe import Argument, Verb

_OPENING = """\
# Completes nono %(version)s in fish. Printed by: nono completion fish

# Whether the words before the cursor begin with nono and these, and no -- is among them.
function __nono_at
    set -l words (commandline -opc)
    contains -- -- $words
    and return 1
    set -e words[1]
    set -l last (count $argv)
    test (count $words) -ge $last
    and test "$words[1..$last]" = "$argv"
end

# Likewise, and nothing else yet.
function __nono_ends
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end

function __nono_has_command
    contains -- -- (commandline -opc)
end

# What another command takes, behind --.
function __nono_command
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words)
    set -l current (commandline -ct)
    complete -C (string join ' ' -- (string escape -- $words[(math $at + 1)..-1]) "$current")
end

# The user's own profiles, by the names of their files, and the built-in ones.
function __nono_profiles
    set -l base $HOME/.config
    set -q XDG_CONFIG_HOME
    and set base $XDG_CONFIG_HOME
    for file in $base/nono/profiles/*.json $base/nono/profiles/*.jsonc
        string replace -r '^.*/([^/]*)\\.jsonc?$' '$1' -- $file
    end
    string join \\n -- %(profiles)s
end

complete -c nono -f
complete -c nono -n __nono_has_command -a '(__nono_command)'
complete -c nono -n __nono_ends -l help -d 'show help and exit'
complete -c nono -n __nono_ends -l version -d 'show the version and exit'
"""


def script(words: Words) -> str:
    """Return the script."""
    lines = []
    for verb in words.verbs:
        lines.append(f"complete -c nono -n __nono_ends -a {_quoted(verb.name)} -d {_quoted(verb.summary)}")
        for action in verb.actions:
            name = action.name.split()[-1]
            condition = _quoted(f"__nono_ends {verb.name}")
            lines.append(f"complete -c nono -n {condition} -a {_quoted(name)} -d {_quoted(action.summary)}")
            lines += _flags(action, words)
        if not verb.actions:
            lines += _flags(verb, words)
    profiles = " ".join(map(_quoted, words.named[describe.PROFILE]))
    return _OPENING % {"version": words.version, "profiles": profiles} + "\n".join(lines) + "\n"


def _flags(verb: Verb, words: Words) -> list[str]:
    condition = _quoted(f"__nono_at {verb.name}")
    lines = []
    for flag in verb.flags:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
        value = f" -r{_completes(flag, words)}" if flag.values else ""
        lines.append(f"complete -c nono -n {condition} {names}{value} -d {_quoted(flag.help)}")
    lines += [f"complete -c nono -n {condition}{_completes(argument, words)}" for argument in verb.arguments]
    return lines


def _completes(argument: Argument, words: Words) -> str:
    if argument.choices:
        return f" -f -a {_quoted(' '.join(argument.choices))}"
    if argument.kind == describe.PROFILE:
        return " -F -a '(__nono_profiles)'"
    if argument.kind in words.named:
        return f" -f -a {_quoted(' '.join(words.named[argument.kind]))}"
    if argument.kind == describe.DIRECTORY:
        return " -f -a '(__fish_complete_directories)'"
    return " -F" if argument.kind in (describe.FILE, describe.PATH) else " -f"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
