"""The script for zsh: each verb is a call of _arguments(1), which knows flags, what excludes what, and descriptions.

It works both evaluated and as a file _nono in $fpath.
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.cli import describe
from nono.cli.complete.words import Words
from nono.cli.describe import Argument, Verb

_OPENING = """\
#compdef nono
# Completes nono %(version)s in zsh. Printed by: nono completion zsh

# The user's own profiles, by the names of their files, and the built-in ones; or any file.
_nono_profiles() {
	local directory=${XDG_CONFIG_HOME:-$HOME/.config}/nono/profiles
	local -a names
	names=($directory/*.json(N-.:t:r) $directory/*.jsonc(N-.:t:r) %(profiles)s)
	compadd -X profile -a names
	_files -g '*.json(|c)'
}

_nono() {
	local curcontext=$curcontext
	local -a verbs
	local -i at=${words[(i)--]}
	if ((at > 2 && at < CURRENT)); then  # another command
		shift at words
		((CURRENT -= at))
		_normal
		return
	fi
	if ((CURRENT == 2)); then
		verbs=(%(verbs)s)
		_describe -t verbs verb verbs
		[[ $PREFIX == -* ]] && compadd -- --help --version
		return
	fi
	shift words
	((CURRENT--))
	case $words[1] in
"""
_CLOSING = """\
	esac
}

if [[ $funcstack[1] == _nono ]]; then
	_nono "$@"
else
	compdef _nono nono
fi
"""


def script(words: Words) -> str:
    """Return the script."""
    lines = []
    for verb in words.verbs:
        lines.append(f"\t{verb.name})")
        if verb.actions:
            lines += [
                "\t\tif ((CURRENT == 2)); then",
                f"\t\t\tverbs=({_described(verb.actions)})",
                "\t\t\t_describe -t verbs action verbs",
                "\t\t\treturn",
                "\t\tfi",
                "\t\tshift words",
                "\t\t((CURRENT--))",
                "\t\tcase $words[1] in",
            ]
            for action in verb.actions:
                lines += [f"\t\t{action.name.split()[-1]})", *_arguments(action, words, "\t\t\t")]
            lines.append("\t\tesac ;;")
        else:
            lines += _arguments(verb, words, "\t\t")
    opening = _OPENING % {
        "version": words.version,
        "profiles": " ".join(map(_quoted, words.named[describe.PROFILE])),
        "verbs": _described(words.verbs),
    }
    return opening + "\n".join(lines) + "\n" + _CLOSING


def _described(verbs: Iterable[Verb]) -> str:
    return " ".join(_quoted(f"{verb.name.split()[-1]}:{verb.summary}") for verb in verbs)


def _arguments(verb: Verb, words: Words, tabs: str) -> list[str]:
    specs = [_spec(flag, name, words) for flag in verb.flags for name in flag.names]
    for argument in verb.arguments:
        message = f"{_escaped(' '.join(argument.values))}:{_completes(argument, words)}"
        specs.append(f"*:{message}" if argument.repeats else f"{':' * (1 + argument.optional)}{message}")
    if verb.takes_command:
        specs.append("--[then the command]")
    separator = f" \\\n{tabs}\t"
    return [f"{tabs}_arguments -s :{separator}{separator.join(map(_quoted, specs))} ;;"]


def _spec(flag: Argument, name: str, words: Words) -> str:
    """Return what _arguments wants to know of one name of a flag."""
    excludes = "*" if flag.repeats else f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
    joined = ("=" if name.startswith("--") else "+") if len(flag.values) == 1 else ""
    text = flag.help.replace("[", "(").replace("]", ")").replace("\\", "")
    return f"{excludes}{name}{joined}[{text}]" + "".join(
        f":{_escaped(value)}:{_completes(flag, words)}" for value in flag.values
    )


def _completes(argument: Argument, words: Words) -> str:
    if argument.choices:
        return f"({' '.join(argument.choices)})"
    if argument.kind == describe.PROFILE:
        return "_nono_profiles"
    if argument.kind in words.named:
        return f"({' '.join(words.named[argument.kind])})"
    if argument.kind == describe.DIRECTORY:
        return "_files -/"
    return "_files" if argument.kind in (describe.FILE, describe.PATH) else " "


def _escaped(text: str) -> str:
    return text.replace("\\", "").replace(":", "\\:")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
