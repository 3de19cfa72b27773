# Sourced by the scripts beside it: from a checkout to a virtual environment in .venv with nono installed in place.
#
# Needs Python 3.11 or newer with its headers, `venv`, and a C compiler; says in one line how to get what is missing.
# shellcheck shell=sh

VENV="$ROOT/.venv"

fail() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

on_debian() {
	command -v apt-get >/dev/null 2>&1
}

# The first Python that is new enough and complete; $PYTHON when set. Sets PYTHON.
find_python() {
	found=""
	for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
		"$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
		found=$candidate
		if [ -z "$(python_lacks "$candidate")" ]; then
			PYTHON=$candidate
			return
		fi
	done
	[ -n "$found" ] || fail "needs Python 3.11 or newer$(on_debian && echo ". Install it with: apt-get install python3")"
	lacks=$(python_lacks "$found")
	if on_debian; then
		fail "$found has no $lacks. Install what is missing with: apt-get install python3-venv python3-dev"
	fi
	fail "$found has no $lacks. Install a complete Python, e.g. from python.org"
}

# What this Python lacks to make a virtual environment and to compile against it; nothing when complete.
python_lacks() {
	"$1" - <<-'END'
		import importlib.util, os, sysconfig
		lacks = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
		if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
		    lacks.append("header files (Python.h)")
		print(", ".join(lacks))
	END
}

find_compiler() {
	command -v "${CC:-cc}" >/dev/null 2>&1 && return
	if on_debian; then
		fail "needs a C compiler. Install one with: apt-get install gcc libc6-dev"
	fi
	fail "needs a C compiler. On macOS, install one with: xcode-select --install"
}

# Python compiles with the compiler that it was compiled with; where that one is not here, with cc.
use_compiler() {
	compiler=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("CC").split()[0])')
	[ -n "${CC:-}" ] || command -v "$compiler" >/dev/null 2>&1 || export CC=cc
}

# make_venv EXTRAS: .venv with nono installed in place ("" or "[test]"). Done anew only where its inputs changed.
make_venv() {
	find_compiler
	if ! "$VENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
		find_python
		echo "making a virtual environment in ${VENV##*/}"
		"$PYTHON" -m venv --clear "$VENV"
	fi
	use_compiler
	stamp "nono$1" "$ROOT/pyproject.toml" "$ROOT/setup.py" "$ROOT"/csrc/*.[ch] "$ROOT"/csrc/*.py &&
		"$VENV/bin/python" -c 'import nono.kernel._shim' 2>/dev/null && return
	echo "installing nono$1"
	# editable_mode=compat: a plain path in the place of an import hook, which would cost every Python here 12 ms.
	"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat --editable "$ROOT$1"
	stamped
}

# stamp NAME FILE...: true when `stamped` was called for these files as they are now, in this place.
stamp() {
	stamp_file="$VENV/stamp-$1"
	shift
	stamp_sum=$( (printf '%s\n' "$ROOT" && cat "$@") | cksum)
	[ -f "$stamp_file" ] && [ "$(cat "$stamp_file")" = "$stamp_sum" ]
}

stamped() {
	printf '%s\n' "$stamp_sum" >"$stamp_file"
}
