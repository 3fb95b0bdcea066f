"""The few pieces of HTML that a report is made of; all text is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template

from matplotlib.axes import Axes

from allegro_jax.train.figures import inline_picture

Cell = str | int | float | None


def page(title: str, *parts: str) -> str:
    """A complete page, by the template ``page.html``."""
    template = Template((resources.files(__package__) / "page.html").read_text("utf-8"))
    return template.substitute(title=escape(title), body="\n".join(parts))


def heading(text: str, level: int, anchor: str | None = None) -> str:
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f"<h{level}{name}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>"


def navigation(anchors: dict[str, str]) -> str:
    """Links to headings: text by anchor."""
    links = (f'<a href="#{escape(a)}">{escape(text)}</a>' for a, text in anchors.items())
    return f"<nav>{' '.join(links)}</nav>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    kind: str = "",
) -> str:
    """A table; numbers stand on the right, in four digits if they are no whole numbers."""
    numeric = [
        any(isinstance(row[place], int | float) for row in rows) for place in range(len(head))
    ]

    def line(cells: Sequence[Cell], tag: str) -> str:
        marked = (
            f"<{tag}{_class('number' if number else '')}>{escape(written(cell))}</{tag}>"
            for cell, number in zip(cells, numeric, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll"><table{_class(kind)}>{title}<thead>{line(head, "th")}</thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(address: str, description: str, caption: str = "") -> str:
    """A picture from a ``data:`` address."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{escape(address)}" alt="{escape(description)}">{below}</figure>'


def picture(draw: Callable[[Axes], object], description: str, caption: str = "") -> str:
    """A figure with one axis, drawn by ``draw``."""
    return figure(inline_picture(draw), description, caption)


def figures(items: Sequence[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    return f'<div class="figures">{"".join(items)}</div>' if items else ""


def folded(summary: str, *parts: str) -> str:
    """What is only shown when the reader asks for it."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def written(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
