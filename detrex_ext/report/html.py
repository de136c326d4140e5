"""HTML and SVG from Python: every text is escaped, whoever it comes from, and no element can load or run anything.

Curves are written as SVG by hand: a few kilobytes, sharp at any size, and no matplotlib, which is optional here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

_VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline"}
_LONGEST = 2000
# no script, nothing from elsewhere: whatever a browser would make of a text that was missed
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:#1c2733;background:#f4f6f8;margin:0}
main{max-width:1180px;margin:0 auto;padding:12px 20px 60px}
section{background:#fff;border:1px solid #dde3e9;border-radius:8px;padding:6px 20px 18px;margin:16px 0}
h1{font-size:24px;margin:18px 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:12px 0 8px}
h3{font-size:15px;margin:14px 0 4px}
p{margin:6px 0;overflow-wrap:anywhere}nav a{margin-right:14px;white-space:nowrap;display:inline-block}a{color:#0b62a8}
.muted{color:#5f6f7f}.cards{display:flex;flex-wrap:wrap;gap:12px}
.card{border:1px solid #dde3e9;border-radius:8px;padding:8px 16px;min-width:90px}.card b{display:block;font-size:22px}
.row{display:flex;flex-wrap:wrap;gap:18px;align-items:flex-start}.warn{border-left:6px solid #c62828;background:#fff6f5}
.good{border-left:6px solid #2e7d32}
table{border-collapse:collapse;margin:6px 0}.wide{overflow-x:auto;max-width:100%}
td,th{padding:3px 10px;border-bottom:1px solid #e6ebf0;text-align:right;vertical-align:top;max-width:420px;
overflow-wrap:anywhere}
td:first-child,th:first-child{text-align:left}.text td,.text th{text-align:left}
.matrix td,.matrix th{border:1px solid #e6ebf0;text-align:center;padding:4px 8px;min-width:34px;max-width:110px}
pre{background:#f4f6f8;padding:8px 12px;border-radius:6px;overflow-x:auto;margin:6px 0;white-space:pre-wrap;
overflow-wrap:anywhere}
figure{margin:0}figcaption{font-size:13px;color:#3c4a58;max-width:460px;overflow-wrap:anywhere}
img{max-width:100%;height:auto;display:block;border-radius:4px}.pair{display:flex;gap:6px}.pair img{width:265px}
.stages img{width:265px}.legend span{display:inline-block;margin-right:12px;font-size:13px;overflow-wrap:anywhere}
.legend i{display:inline-block;width:14px;height:4px;margin-right:5px;vertical-align:middle;border-radius:2px}
summary{cursor:pointer;color:#0b62a8;margin:6px 0}svg text{font:11px system-ui,sans-serif;fill:#3c4a58}
"""


class Html(str):
    """Text that is HTML already."""


def text(value: Any, longest: int = _LONGEST) -> Html:
    """A value as text of a page; what is HTML already stays."""
    if isinstance(value, Html):
        return value
    shown = str(value)
    shown = shown if len(shown) <= longest else f"{shown[:longest]}..."
    # other control characters and halves of pairs are in no file of UTF-8
    shown = "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return Html(html.escape(shown.encode("utf-8", "replace").decode("utf-8"), quote=True))


def el(name: str, *inside: Any, **attributes: Any) -> Html:
    """An element; ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``; an attribute of None is left out.

    Args:
        name: of the element, ours alone.
        inside: texts, which are escaped, and elements.
        attributes: values are escaped.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = name + "".join(f' {key}="{text(value, 10**7)}"' for key, value in pairs)
    if name in _VOID:
        return Html(f"<{opening}>" if name in ("meta", "img", "br") else f"<{opening}/>")
    return Html(f"<{opening}>{''.join(map(text, inside))}</{name}>")


def table(rows: Sequence[Sequence[Any]], class_: str | None = None) -> Html:
    """Rows under the first one."""
    head = el("tr", *(el("th", cell) for cell in rows[0]))
    body = [el("tr", *(el("td", cell) for cell in row)) for row in rows[1:]]
    return el("div", el("table", head, *body, class_=class_), class_="wide")


def folded(title: Any, *inside: Any) -> Html:
    """What is seen after a click on its title."""
    return el("details", el("summary", title), *inside)


def page(title: str, sections: Sequence[tuple[str, Html]]) -> str:
    """A whole page.

    Args:
        title: of the page.
        sections: headings and what is under them; one without a heading has no entry in the list at the top.
    """
    named = [(f"s{number}", heading, inside) for number, (heading, inside) in enumerate(sections)]
    links = [el("a", heading, href=f"#{key}") for key, heading, _ in named if heading]
    parts = [el("section", el("h2", heading), inside, id=key) if heading else inside for key, heading, inside in named]
    head = el(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        el("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    body = el("body", el("main", el("h1", title), el("nav", *links), *parts))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'
