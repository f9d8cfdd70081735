"""Drawings as SVG for inlining: deterministic, and in the colours of the page around them.

Text and lines take their colours from the page (``currentColor``, ``--grid`` and ``--line-0`` to
``--line-6``), so that one drawing serves light, dark and paper.
"""

import io
import re
from html import escape
from typing import Any

from matplotlib.figure import Figure

LIGHT = ("#0072b2", "#d55e00", "#00805d", "#b8508b", "#a67400", "#2e8fcb", "#666666")
"""After Okabe and Ito: told apart with any colour vision; darkened to read on white."""
DARK = ("#56b4f0", "#f58a4b", "#2dc79b", "#e79cc8", "#f0b93a", "#a5d4f7", "#b0b0b0")
_INK, _GRID = "#010203", "#040506"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "classroomkd",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.scale_dashes": False,
    "path.simplify": True,
}
"""Of matplotlib, while a figure is drawn."""


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """A figure as an ``<svg>`` element of a page that has others.

    Args:
        figure: drawn in `STYLE`, which must still hold.
        prefix: begins every id; different for each drawing of a page.
        description: for who cannot see it.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    # Nothing refers to photographs, and the same one twice would have the same id twice.
    svg = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", buffer.getvalue())
    return _inline(svg, prefix, description)


def _inline(svg: str, prefix: str, description: str) -> str:
    """Make a stand-alone SVG document an element of a page that has others."""
    svg = svg[svg.index("<svg") :]
    for part in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"<!--.*?-->",
        r"<defs>\s*</defs>",
    ):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg role="img" aria-label="{escape(description)}" {box.group() if box else ""}>'
    body = svg[svg.index(">") + 1 :].replace("xlink:href", "href")
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", body)
    body = re.sub(r"<[^>]*>", lambda tag: _rounded(tag.group()), body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for color, name in ((_INK, "currentColor"), (_GRID, "var(--grid)")):
        body = body.replace(color, name)
    for slot, color in enumerate(LIGHT):
        body = body.replace(color, f"var(--line-{slot})")
    return re.sub(r"\s*\n\s*", "\n", opening + body).strip()


def _rounded(tag: str) -> str:
    """A tag with its coordinates to a hundredth of a point, a long line's to a tenth."""
    digits = 1 if len(tag) > 1500 else 2
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found.group()):.{digits}f}", tag)
