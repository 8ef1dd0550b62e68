"""A page around a figure: the figure, and the decisions in words. One file, nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from .drawing import Figure, draw
from .elements import clean

MAX_ROWS = 1_000
HEAD = ("time", "run", "step", "action", "status", "reason", "policy", "what came of it")
STYLE = """
body { margin: 24px auto; max-width: 1100px; padding: 0 16px; font: 14px/1.45 system-ui, sans-serif; color: #1f2328 }
svg { max-width: 100%; height: auto }
.curve:hover path { stroke-width: 3 }
table { border-collapse: collapse; margin-top: 12px }
th, td { padding: 4px 10px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e8eb }
td:first-child, td:nth-child(3) { white-space: nowrap }
"""


def page_text(figure: Figure, decisions: Sequence[Sequence[Any]]) -> str:
    """The page; of the decisions, rows of HEAD, the last MAX_ROWS."""
    html = Element("html", {"lang": "en", "xmlns": "http://www.w3.org/1999/xhtml"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "title").text = clean(figure.title)
    SubElement(head, "style").text = STYLE
    body = SubElement(html, "body")
    body.append(draw(figure))
    left = len(decisions) - MAX_ROWS
    if left > 0:
        SubElement(body, "p").text = f"{left} earlier decisions are not listed; smart-tuner decisions has them."
    if decisions:
        table = SubElement(body, "table")
        _row(SubElement(table, "thead"), "th", HEAD)
        rows = SubElement(table, "tbody")
        for decision in decisions[-MAX_ROWS:]:
            _row(rows, "td", decision)
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", short_empty_elements=False) + "\n"


def _row(parent: Element, tag: str, cells: Sequence[Any]) -> None:
    row = SubElement(parent, "tr")
    for cell in cells:
        SubElement(row, tag).text = "" if cell is None else clean(str(cell))
