"""`nono audit export`: one session for other programs, or for a browser."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from io import TextIOWrapper

from nono.audit import export, page, read, verify
from nono.audit.summary import Summary
from nono.cli import render
from nono.cli.audits import place
from nono.cli.new_file import NewFile
from nono.cli.render import notice, printable
from nono.errors import StoreError, UsageError

_PIECE = 1 << 16  # characters


def run(arguments: argparse.Namespace) -> int:
    """Export the session; return 0."""
    directory = place.directory()
    name = read.find(directory, arguments.session)
    if arguments.force and arguments.output is None:
        raise UsageError("--force is for -o FILE; name the file")
    pieces = _pieces(directory, name, arguments.format)
    if arguments.output is not None:
        with NewFile(os.path.abspath(arguments.output), over=arguments.force) as file:
            notice(f"written to {file.write(pieces)}")
        return 0
    if sys.stdout.isatty():  # a log that was tampered with may hold what moves a cursor
        pieces = ("\n".join(map(printable, piece.replace("\r\n", "\n").split("\n"))) for piece in pieces)
    else:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
    sys.stdout.writelines(pieces)
    sys.stdout.flush()
    return 0


def _pieces(directory: str, name: str, form: str) -> Iterable[str]:
    path = os.path.join(directory, name)
    if form == "jsonl":
        return _as_it_is(path)
    records = read.records(path)
    if form == "csv":
        return export.csv_of(read.session_of(name), records)
    try:
        checked = verify.one(directory, name, verify.ledger_in(directory))
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    said = [f"{fault.file}{f', line {fault.line}' if fault.line else ''}: {fault.detail}" for fault in checked.faults]
    summary = Summary(records)
    changes, remarks = None, []
    if summary.snapshots:
        files = import_module("nono.cli.audits.files")
        changes, remarks = files.changes(read.session_of(name), summary.snapshots, render.home_of(os.environ))
    return page.page(read.session_of(name), records, (checked.state, said), changes, remarks, summary)


def _as_it_is(path: str) -> Iterator[str]:
    try:
        with TextIOWrapper(read.opened(path), encoding="utf-8", errors="surrogateescape", newline="") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
