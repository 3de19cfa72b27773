"""A plot as SVG, made of strings: small bar charts side by side, readable on light and on dark pages."""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

from bench import _targets
from bench._peers import NGINX, NONE, NONO, RUST


class Panel(NamedTuple):
    """One chart: the metric's place in the table by name, a title, and what the reader should look for."""

    metric: str
    title: str
    hint: str
    added: bool = False


PANELS = (
    Panel("rate8.rate", "Requests per second", "8 connections; more is better"),
    Panel("latency.p50", "Added to a request, µs", "median; less is better", added=True),
    Panel("streams.first", "First event of a stream, µs", "median; less is better"),
    Panel("download.rate", "Download, MB/s", "more is better"),
    Panel("upload.rate", "Upload, MB/s", "more is better"),
    Panel("many.memory", "Memory of a stream, KiB", "2,000 idle streams; less is better"),
)
COLUMNS, WIDTH, HEIGHT, MARGIN = 3, 300, 168, 16
BARS, LABEL, BAR, STEP = 58, 66, 16, 24  # where the bars begin, their labels' width, their height and distance
COLOURS = {NONE: "#9aa4b2", NGINX: "#6ba368", RUST: "#c8793f", NONO: "#3b74d8"}
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 13px; }
.small { font-size: 11px; fill: #6e7781; }
.ours { font-weight: 600; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .small { fill: #8d96a0; } }
"""


def draw(samples: _targets.Samples, caption: str) -> str:
    """Return the plot. caption: one sentence for those who cannot see it."""
    panels = [panel for panel in PANELS if panel.metric in samples]
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH + MARGIN, rows * HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(caption)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        x, y = MARGIN + number % COLUMNS * WIDTH, MARGIN + number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">\n{_panel(samples, panel)}</g>')
    return "\n".join(parts) + "\n</svg>\n"


def _panel(samples: _targets.Samples, panel: Panel) -> str:
    metric = next(m for m in _targets.METRICS if m.name == panel.metric and m.added == panel.added)
    found = {name: _targets.median(samples, metric, name) for name in COLOURS}
    shown = {name: value for name, value in found.items() if value is not None}
    room = WIDTH - MARGIN - LABEL - 60
    scale = room / max([*shown.values(), 1e-9])
    parts = [
        f'<text class="title" y="14">{escape(panel.title)}</text>',
        f'<text class="small" y="32">{escape(panel.hint)}</text>',
    ]
    for number, (name, value) in enumerate(shown.items()):
        y = BARS - BAR + number * STEP
        ours = ' class="ours"' if name == NONO else ""
        length = max(1.0, value * scale)
        figure = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        parts += [
            f'<text{ours} x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLOURS[name]}"/>',
            f'<text{ours} x="{LABEL + length + 6:.1f}" y="{y + 12}">{figure}</text>',
        ]
    return "\n".join(parts) + "\n"
