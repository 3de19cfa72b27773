"""One session as one HTML page that needs nothing else: no script, no picture, no font, nothing from elsewhere.

Whatever is shown is escaped, once, where it is put in (`_text`): hosts, paths and reasons are of the agent's choosing,
and the page is opened in a browser that has the user's own sessions. The page also forbids itself all but its own
style (Content-Security-Policy, the style by its hash), so that a mistake here would still run nothing. Characters that
no screen shows, or that turn the direction of a line, are written as escapes.

The timeline is a table, each row with a bar that shows when and for how long, drawn as SVG, which needs no style.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from itertools import islice

from nono.audit import read, signed
from nono.audit.summary import MOST, Summary
from nono.policy.quantities import shown_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST = 2000  # characters of one text
_BAR = 120  # pixels
_STYLE = """
:root{--ink:#1d2129;--dim:#667085;--line:#e4e7ec;--paper:#fff;--soft:#f7f8fa;--bad:#b42318;--badsoft:#fef3f2;
--good:#067647;--warn:#93370d;--warnsoft:#fffaeb;--bar:#98a2b3}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--dim:#98a2b3;--line:#2b303b;--paper:#14171d;--soft:#1b1f27;
--bad:#fda29b;--badsoft:#2c1a1a;--good:#6ce9a6;--warn:#fec84b;--warnsoft:#2a2214;--bar:#667085}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:2rem 1.5rem 4rem;color:var(--ink);background:var(--paper);
font:15px/1.5 system-ui,sans-serif}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
code,.mono,td,dd{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px;
overflow-wrap:anywhere}.dim{color:var(--dim)}.lead{margin:.3rem 0 1.2rem;overflow-wrap:anywhere}
.cards{display:flex;flex-wrap:wrap;gap:.8rem}
.card{background:var(--soft);border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem;min-width:8.5rem}
.card b{display:block;font-size:1.35rem}.card span{color:var(--dim);font-size:13px}
.bad b,.refused .v{color:var(--bad)}.warn b{color:var(--warn)}
.note{background:var(--warnsoft);border:1px solid var(--line);border-left:4px solid var(--warn);padding:.6rem 1rem;
border-radius:4px;margin:1rem 0}.fault{background:var(--badsoft);border-left-color:var(--bad)}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:600;font-size:13px;color:var(--dim);padding:.35rem .5rem;
border-bottom:2px solid var(--line);white-space:nowrap}
td{padding:.35rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
td.n{text-align:right;white-space:nowrap}td.v{white-space:nowrap}tr.refused td{background:var(--badsoft)}
tr.effect .v{color:var(--warn)}.allowed .v{color:var(--good)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--dim)}dd{margin:0}
svg{display:block}rect.b{fill:var(--line)}rect.f{fill:var(--bar)}.refused rect.f{fill:var(--bad)}
.effect rect.f{fill:var(--warn)}.wrap{overflow-x:auto}
"""
_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
_PLACES = {
    "denies": "denied", "unprotected": "unprotected", "hosts": "hosts",
    "denied_hosts": "denied hosts", "sockets": "sockets", "open_ports": "ports of the machine",
    "listen_ports": "ports of the agent", "exposed_credentials": "real keys that the agent holds",
}  # fmt: skip


def page(
    session: str,
    records: Iterable[Mapping[str, Any]],
    verdict: tuple[str, Sequence[str]],
    changes: Sequence[tuple[str, str]] | None = None,
    remarks: Sequence[str] = (),
    summary: Summary | None = None,
) -> Iterator[str]:
    """Yield the page in pieces. verdict: what verify says: a state, and a sentence for each fault.

    records: gone through twice, and not kept: there may be a million. summary: of them, where the caller has it.

    changes: of files, (what, path) each; None where they are not known, or the session had no snapshots. remarks: on
    them, a sentence each.
    """
    summary = summary or Summary(records)
    start, end = summary.start, summary.end
    title = f"nono audit {session}"
    yield (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name=viewport content="width=device-width,initial-scale=1"><meta name=referrer content=no-referrer>'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
    )
    argv = " ".join(str(word) for word in read.sequence(start, "argv")) or "no command is recorded"
    yield f"<h1>{_text(session)}</h1><p class=lead><code>{_text(argv)}</code></p>\n"
    yield from _verdict(*verdict)
    yield from _cards(summary, changes)
    yield from _about(start, end)
    yield from _signed(summary.trust)
    yield from _effects(summary.effects)
    yield from _denials(summary.denied)
    yield from _changes(changes, remarks)
    yield from _timeline(records, summary)
    yield "</body></html>\n"


def _verdict(state: str, faults: Sequence[str]) -> Iterator[str]:
    if faults:
        yield "<div class='note fault'><b>This log is not as it was written.</b><br>"
        yield "<br>".join(map(_text, faults[:20])) + "</div>\n"
    elif state != "whole":
        words = {
            "unended": "This session ended without an end record (it was killed, or the machine lost power). Its last "
            "records may be missing, and nobody can tell.",
            "unentered": "The end of this session is not in the ledger, whose last lines may be missing.",
            "running": "This session was still running.",
        }  # fmt: skip
        yield f"<div class=note>{_text(words.get(state, state))}</div>\n"


def _cards(summary: Summary, changes: Sequence[object] | None) -> Iterator[str]:
    end, denied, effects = summary.end, summary.refused + summary.denials, summary.effect
    status = end.get("status")
    cards = [
        ("bad" if status else "", "–" if status is None else str(status), "exit status"),
        ("", _duration(read.number(end, "duration_ms")) if end else "–", "duration"),
        ("", f"{summary.exchanges:,}", "requests and tunnels"),
        ("bad" if denied else "", f"{denied:,}", "denied"),
        ("warn" if effects else "", f"{effects:,}", "with effects elsewhere"),
        ("", "–" if changes is None else f"{len(changes):,}", "files changed"),
    ]
    yield "<div class=cards>"
    for look, figure, label in cards:
        yield f"<div class='card {look}'><b>{_text(figure)}</b><span>{_text(label)}</span></div>"
    yield "</div>\n"


def _about(start: Mapping[str, Any], end: Mapping[str, Any]) -> Iterator[str]:
    if not start:
        return
    rows = [("began", _stamp(read.number(start, "time"))), ("ended", _stamp(read.number(end, "time")) if end else "")]
    rows += [("directory", read.text(start, "workdir")), ("nono", read.text(start, "version"))]
    rows += [("wall", read.text(start, "wall")), ("network", read.text(start, "network"))]
    rows += [("network profile", read.text(start, "network_profile"))]
    rows += [("through the proxy", read.text(start, "upstream_proxy"))]
    profiles = [f"{read.text(each, 'name')} ({read.text(each, 'source')})" for each in _objects(start, "profiles")]
    rows.append(("profiles", " ← ".join(reversed(profiles))))
    keys = [f"{read.text(each, 'name')} → {read.text(each, 'upstream')}" for each in _objects(start, "credentials")]
    rows.append(("credentials", ", ".join(keys)))
    for member, label in _PLACES.items():
        rows.append((label, ", ".join(str(each) for each in read.sequence(start, member))))
    limits = start.get("limits")
    if isinstance(limits, dict):
        rows.append(("limits", ", ".join(f"{name} {value}" for name, value in limits.items())))
    yield "<h2>What it was</h2><dl>"
    yield "".join(f"<dt>{_text(label)}</dt><dd>{_text(value)}</dd>" for label, value in rows if value)
    yield "</dl>\n"
    grants = list(_objects(start, "grants"))
    if grants:
        yield f"<details><summary>{len(grants)} grants</summary><table><tr><th>access<th>path<th>granted by</tr>"
        for grant in grants[:MOST]:
            cells = (read.text(grant, name) for name in ("access", "path", "origin"))
            yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
        yield "</table></details>\n"


def _signed(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if rows := signed.rows(records):
        yield "<h2>Files that instruct the agent</h2><table>"
        for label, text in rows[:MOST]:
            look = "" if label == "signed" else " class=refused"
            yield f"<tr{look}><td>{_text(label)}</td><td>{_text(text)}</td></tr>"
        yield "</table>\n"


def _effects(effects: Mapping[tuple[str, str], int]) -> Iterator[str]:
    if not effects:
        return
    yield "<h2>Effects elsewhere</h2><p class=dim>Requests that may have changed something on another machine. Nothing "
    yield "undoes them. Tunnels are not among them: what is said inside is not seen.</p>"
    yield "<table><tr><th>host<th>method<th>requests</tr>"
    for (method, host), count in sorted(effects.items(), key=lambda item: -item[1])[:200]:
        yield f"<tr><td>{_text(host)}</td><td>{_text(method)}</td><td class=n>{count:,}</td></tr>"
    yield "</table>\n"


def _denials(rows: Mapping[tuple[str, str, str], int]) -> Iterator[str]:
    if not rows:
        return
    yield "<h2>Denied</h2><table><tr><th>what<th>why<th>what would grant it<th>times</tr>"
    for (what, why, flag), count in rows.items():
        yield f"<tr class=refused><td>{_text(what)}</td><td>{_text(why)}</td><td>{_text(flag)}</td>"
        yield f"<td class=n>{count:,}</td></tr>"
    yield "</table>\n"


def _changes(changes: Sequence[tuple[str, str]] | None, remarks: Sequence[str]) -> Iterator[str]:
    yield "<h2>Files</h2>"
    yield from (f"<div class=note>{_text(remark)}</div>\n" for remark in remarks)
    if changes is None and remarks:
        return
    if changes is None:
        yield "<p class=dim>No snapshots were taken in this session, so its changes of files are not known.</p>\n"
        return
    if not changes:
        yield "<p class=dim>No file was changed.</p>\n"
        return
    yield "<table><tr><th>change<th>path</tr>"
    for what, path in changes[:MOST]:
        yield f"<tr><td>{_text(what)}</td><td>{_text(path)}</td></tr>"
    yield "</table>\n"


def _timeline(records: Iterable[Mapping[str, Any]], summary: Summary) -> Iterator[str]:
    yield "<h2>Timeline</h2>"
    if not summary.exchanges:
        yield "<p class=dim>The agent sent no request by way of the proxy.</p>\n"
        return
    began = read.number(summary.start, "time") or summary.began
    over = read.number(summary.end, "time") or summary.over
    exchanges = read.in_time(each for each in records if read.text(each, "kind") in ("exchange", ""))
    scale = _BAR / max(over - began, 1e-3)
    yield "<div class=wrap><table><tr><th>after<th><th>verdict<th>method<th>target<th>status<th>took"
    yield "<th>sent<th>received</tr>\n"
    for each in islice(exchanges, MOST):
        at = read.number(each, "time") - began
        took = read.number(each, "duration_ms")
        verdict = read.text(each, "verdict")
        look = "refused" if verdict == "refused" else "effect" if read.has_side_effects(each) else "allowed"
        x = min(max(at * scale, 0), _BAR - 2)
        width = max(min(took / 1000 * scale, _BAR - x), 2)
        bar = (
            f"<svg width={_BAR} height=14 aria-hidden=true><rect class=b y=6 width={_BAR} height=2 />"
            f"<rect class=f x={x:.1f} y=3 width={width:.1f} height=8 rx=1 /></svg>"
        )
        reason = read.reason(each)
        detail = f"<br><span class=dim>{_text(reason)}</span>" if reason else ""
        cells = (
            f"<td class=n>{at:.3f} s</td><td>{bar}</td><td class=v>{_text(verdict)}</td>"
            f"<td>{_text(read.text(each, 'method'))}</td><td>{_text(_target(each))}{detail}</td>"
            f"<td class=n>{_text(str(int(read.number(each, 'status'))))}</td><td class=n>{_text(_duration(took))}</td>"
            f"<td class=n>{_size(read.number(each, 'bytes_up'))}</td>"
            f"<td class=n>{_size(read.number(each, 'bytes_down'))}</td>"
        )
        yield f"<tr class={look}>{cells}</tr>\n"
    yield "</table></div>\n"
    if summary.exchanges > MOST:
        yield f"<p class=dim>{summary.exchanges - MOST:,} more are in the log: nono audit export --format jsonl</p>\n"


def _objects(record: Mapping[str, Any], member: str) -> Iterable[Mapping[str, Any]]:
    return (each for each in read.sequence(record, member) if isinstance(each, dict))


def _target(exchange: Mapping[str, Any]) -> str:
    return f"{read.text(exchange, 'host')}{read.text(exchange, 'path')}"


def _text(value: str) -> str:
    """Return a text as HTML, for an element or a quoted attribute."""
    if len(value) > _LONGEST:
        value = value[:_LONGEST] + "…"
    if not value.isprintable():
        value = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in value)
    return escape(value, quote=True)


def _stamp(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else ""
    except (OverflowError, OSError, ValueError):
        return ""


def _duration(ms: float) -> str:
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 100_000 else f"{ms / 1000:,.0f} s"


def _size(count: float) -> str:
    return shown_bytes(count) if count else ""
