from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from corral.evals.reporting.markup import Markup, element, join, text


class Reader(HTMLParser):
    """Collects tags, attributes and text as a browser would read them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.texts = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.texts += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co"))))
def test_whatever_a_model_says_is_text_and_never_a_tag_or_attribute(said: str) -> None:
    found = read(element("p", said, title=said))
    assert found.tags == ["p"]
    assert found.texts == said
    assert found.attributes == {"title": said}


def test_markup_is_left_as_it_is_and_nothing_else_is() -> None:
    assert element("p", Markup("<b>x</b>"), "<i>") == "<p><b>x</b>&lt;i&gt;</p>"
    assert join("a & b", None, Markup("<br>")) == "a &amp; b<br>"


def test_control_characters_and_overrides_are_shown() -> None:
    assert text("a\x00\u202eb\x1b[31m\ud800") == "a\\x00\\u202eb\\x1b[31m\\ud800"
    assert text("two\nlines\tand a tab") == "two\nlines\tand a tab"


def test_attributes_without_a_value_are_left_out_and_underscores_become_hyphens() -> None:
    made = element("input", class_="a", aria_label="b", checked=True, disabled=False, id=None)
    assert made == '<input class="a" aria-label="b" checked>'


def test_leaves_of_svg_close_themselves_unless_they_have_a_title() -> None:
    assert element("circle", r=1.5) == '<circle r="1.5"/>'
    assert element("circle", element("title", "x"), r=1) == '<circle r="1"><title>x</title></circle>'
