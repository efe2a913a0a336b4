"""HTML and SVG as text, safe by construction: whatever is not ``Markup`` is escaped.

Replies of models and names from files may hold control characters and bidirectional overrides, which could reorder
what is read; they are written as visible escapes.
"""

from __future__ import annotations

from html import escape
from typing import Final

_BIDI_CONTROLS: Final = frozenset(range(0x202A, 0x202F)) | frozenset(range(0x2066, 0x206A)) | {0x200E, 0x200F, 0x061C}
_VOID: Final = frozenset({"br", "hr", "img", "input", "link", "meta"})
_SVG_LEAVES: Final = frozenset({"circle", "line", "path", "polygon", "rect"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | None
Attribute = str | float | bool | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: markup as it is, other text escaped, ``None`` left out.
        attributes: a trailing underscore is dropped (``class_``) and others become hyphens (``aria_label``); ``True``
            gives the bare name, ``None`` and ``False`` leave the attribute out.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{head}>")
    if name in _SVG_LEAVES and not children:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after another; see ``element``."""
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children if child))


def text(value: str) -> Markup:
    """Text that reads as it is written: escaped, with control characters shown."""
    return Markup(escape("".join(_visible(character) for character in value)))


def _visible(character: str) -> str:
    code = ord(character)
    control = (code < 0x20 and character not in "\n\t") or 0x7F <= code < 0xA0
    if control or code in _BIDI_CONTROLS or 0xD800 <= code <= 0xDFFF or code in {0xFFFE, 0xFFFF}:
        return character.encode("unicode_escape").decode("ascii")
    return character


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{text(shown)}"'
