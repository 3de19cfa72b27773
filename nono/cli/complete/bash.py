"""The script for bash, from 3.2 (macOS) on.

Names of files are completed by readline itself (`complete -o default`), which knows how to quote them; a value that is
no file's switches that off. bash splits --flag=value at the equals sign.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from nono.cli import describe
from nono.cli.complete.words import Words
from nono.cli.describe import Argument, Verb

_OPENING = """\
# Completes nono %(version)s in bash. Printed by: nono completion bash

# Offers those of the words that begin as the current one.
_nono_offer() {
	local word
	for word; do
		if [[ $word == "$cur"* ]]; then
			COMPREPLY+=("$word")
		fi
	done
}

# No name of a file is meant here.
_nono_no_files() {
	compopt +o default 2>/dev/null || true
}

_nono_directories() {
	compopt +o default -o dirnames 2>/dev/null || true
}

# The user's own profiles, by the names of their files, and the built-in ones.
_nono_profiles() {
	local base=${XDG_CONFIG_HOME:-$HOME/.config} file name quoted
	for file in "$base"/nono/profiles/*.json "$base"/nono/profiles/*.jsonc; do
		if [[ -f $file ]]; then
			name=${file##*/}
			printf -v quoted %%q "${name%%.json*}"
			_nono_offer "$quoted"
		fi
	done
	_nono_offer %(profiles)s
}

# What stands behind --, at word $1: another command.
_nono_command() {
	if declare -F _comp_command_offset >/dev/null; then
		_comp_command_offset "$1"
	elif declare -F _command_offset >/dev/null; then
		_command_offset "$1"
	elif ((COMP_CWORD == $1)) && [[ $cur != */* ]]; then
		_nono_no_files
		local name
		while IFS= read -r name; do
			COMPREPLY+=("$name")
		done < <(compgen -c -- "$cur")
	fi
}

_nono() {
	local cur=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]-} action= flag= at
	COMPREPLY=()
	for ((at = 2; at < COMP_CWORD; at++)); do
		if [[ ${COMP_WORDS[at]} == -- ]]; then
			_nono_command $((at + 1))
			return
		fi
	done
	if ((COMP_CWORD == 1)); then
		_nono_no_files
		_nono_offer %(verbs)s --help --version
		return
	fi
"""

_CLOSING = """\
	_nono_flags
}

complete -o default -F _nono nono
"""


def script(words: Words) -> str:
    """Return the script."""
    opening = _OPENING % {
        "version": words.version,
        "profiles": _quoted(words.named[describe.PROFILE]),
        "verbs": _quoted(verb.name for verb in words.verbs),
    }
    with_actions = [verb for verb in words.verbs if verb.actions]
    lines = ["\tcase $verb in"]
    for verb in with_actions:
        names = _quoted(action.name.split()[-1] for action in verb.actions)
        lines += [
            f"\t{verb.name})",
            "\t\tif ((COMP_CWORD == 2)); then",
            "\t\t\t_nono_no_files",
            f"\t\t\t_nono_offer {names} --help",
            "\t\t\treturn",
            "\t\tfi",
            "\t\taction=${COMP_WORDS[2]} ;;",
        ]
    lines += ["\tesac", *_values(words), *_positionals(words)]
    return f"{_flags(words)}\n{opening}" + "\n".join(lines) + "\n" + _CLOSING


def _leaves(verbs: Iterable[Verb]) -> Iterator[tuple[str, Verb]]:
    """Yield what has flags of its own, as `verb:action`."""
    for verb in verbs:
        if verb.actions:
            yield from ((action.name.replace(" ", ":"), action) for action in verb.actions)
        else:
            yield f"{verb.name}:", verb


def _flags(words: Words) -> str:
    lines = ["_nono_flags() {", "\t_nono_no_files", "\tcase $verb:$action in"]
    for place, verb in _leaves(words.verbs):
        names = [name for flag in verb.flags for name in flag.names if name.startswith("--")]
        lines.append(f"\t{place}) _nono_offer {_quoted(names)}{' --' if verb.takes_command else ''} ;;")
    return "\n".join([*lines, "\tesac", "}"]) + "\n"


def _values(words: Words) -> list[str]:
    """Return what completes the value of a flag: the word after it, or behind its equals sign."""
    lines = [
        "\tif [[ $cur == = ]]; then",
        "\t\tflag=${COMP_WORDS[COMP_CWORD - 1]} cur=",
        "\telif [[ ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then",
        "\t\tflag=${COMP_WORDS[COMP_CWORD - 2]}",
        "\telse",
        "\t\tflag=${COMP_WORDS[COMP_CWORD - 1]}",
        "\tfi",
        "\tcase $verb:$action:$flag in",
    ]
    does: dict[str, list[str]] = {}
    pairs = []
    for place, verb in _leaves(words.verbs):
        for flag in verb.flags:
            patterns = [f"{place}:{name}" for name in flag.names]
            if flag.values:
                does.setdefault(_completes(flag, words), []).extend(patterns)
            if len(flag.values) > 1:
                pairs += patterns
    for what, patterns in does.items():
        lines += [f"\t{' | '.join(patterns)})", f"\t\t{what}", "\t\treturn ;;"]
    lines.append("\tesac")
    if pairs:
        lines += [
            "\tcase $verb:$action:${COMP_WORDS[COMP_CWORD - 2]} in",
            f"\t{' | '.join(pairs)})",
            "\t\t_nono_no_files",
            "\t\treturn ;;",
            "\tesac",
        ]
    return lines


def _positionals(words: Words) -> list[str]:
    lines = ["\tif [[ $cur != -* ]]; then", "\t\tcase $verb:$action in"]
    for place, verb in _leaves(words.verbs):
        if verb.arguments:
            lines += [f"\t\t{place})", f"\t\t\t{_completes(verb.arguments[0], words)}", "\t\t\treturn ;;"]
    return [*lines, "\t\tesac", "\tfi"]


def _completes(argument: Argument, words: Words) -> str:
    if argument.choices:
        return f"_nono_no_files; _nono_offer {_quoted(argument.choices)}"
    if argument.kind == describe.PROFILE:
        return "_nono_profiles"
    if argument.kind in words.named:
        return f"_nono_no_files; _nono_offer {_quoted(words.named[argument.kind])}"
    if argument.kind == describe.DIRECTORY:
        return "_nono_directories"
    return ":" if argument.kind in (describe.FILE, describe.PATH) else "_nono_no_files"


def _quoted(names: Iterable[str]) -> str:
    return " ".join(map(shlex.quote, names))
