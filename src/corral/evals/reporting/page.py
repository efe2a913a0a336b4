"""The page around a report: one HTML file that needs nothing else, in a light and a dark theme, for screen and paper.

There is no script: the theme follows the reader's system unless one of the buttons is pressed, which style sheets can
tell. A content security policy keeps it so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Final

from corral.evals.reporting.markup import Markup, element, join

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_THEMES: Final = ("auto", "light", "dark")

Facts = Iterable[tuple[str, str | None]]


def page(title: str, *children: str | None, pictures: bool = False) -> str:
    """The whole document.

    Args:
        title: of the document and its first heading.
        children: below the heading.
        pictures: it holds pictures, as ``data:`` URIs; nothing is ever fetched.
    """
    policy = f"{_POLICY}; img-src data:" if pictures else _POLICY
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", _themes(), element("h1", title), *children))
    return f'<!doctype html>\n<html lang="en">{head}\n{body}</html>\n'


def section(title: str, *children: str | None, kind: str | None = None) -> Markup:
    """A part of the page with its heading."""
    return element("section", element("h2", title), *children, class_=kind)


def facts(pairs: Facts) -> Markup:
    """Names and values on one line; without those that have no value."""
    found = [element("div", element("dt", name), element("dd", value)) for name, value in pairs if value]
    return element("dl", *found, class_="facts")


def plain_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: frozenset[int] = frozenset()
) -> Markup:
    """A table of text; columns in ``numbers`` are set flush right. It scrolls within itself in a narrow window."""
    head = [element("th", name, scope="col", class_=_number(i, numbers)) for i, name in enumerate(columns)]
    body = [element("tr", *[_cell(i, cell, numbers) for i, cell in enumerate(row)]) for row in rows]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", table, class_="scroll", tabindex=0, role="group")


def paragraph(value: str, *, kind: str | None = None) -> Markup:
    """A paragraph of text."""
    return element("p", value, class_=kind)


def big_value(value: str, *children: str | None, kind: str = "") -> Markup:
    """A figure in large type with its unit in small; ``kind`` is a class that colours it."""
    number, _, unit = value.partition(" ")
    small = element("span", f" {unit}", class_="unit") if unit else None
    return element("div", number, small, *children, class_=f"value {kind}".strip())


def bullets(lines: Iterable[str]) -> Markup | None:
    """A list of lines; nothing without any."""
    items = [element("li", line) for line in lines]
    return element("ul", *items, class_="caveats") if items else None


def folded(summary: str, *children: str | None) -> Markup:
    """A part that opens when its summary is pressed."""
    return element("details", element("summary", summary), *children)


def _cell(column: int, value: str, numbers: frozenset[int]) -> Markup:
    return element("td", value, class_=_number(column, numbers))


def _number(column: int, numbers: frozenset[int]) -> str | None:
    return "number" if column in numbers else None


def _themes() -> Markup:
    buttons = []
    for name in _THEMES:
        button = element("input", id=f"theme-{name}", type="radio", name_="theme", checked=name == "auto")
        buttons.append(join(button, element("label", name.capitalize(), for_=f"theme-{name}")))
    return element("fieldset", element("legend", "Theme"), *buttons, class_="themes")
