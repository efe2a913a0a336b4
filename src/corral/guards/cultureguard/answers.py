"""The JSON object that CultureGuard answers with, and how it is read.

::

    {"User Safety": "safe" | "unsafe",
     "Response Safety": "safe" | "unsafe",         (only with a response)
     "Safety Categories": "Violence, Threat"}      (only if something is unsafe)

Reading is tolerant of form and strict in meaning. Let pass: words around the object, letter case, typographic or
full-width quotation marks, colons and commas, quotation marks inside a value, a comma too many, categories as a list.
An answer is one flat object that is whole: with a second one, one inside another, or one that was cut off, nothing is
known. What an answer says about one message is unknown, and never safe, when its key is missing, is given twice, or has
another value; when the answer says unsafe anywhere but in the values of its keys; when categories are named and nothing
that is there is unsafe; and when the message is called safe while a response that is not there is called unsafe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from corral.data.messages import TARGETS, Target
from corral.data.refusals import opens_with_refusal
from corral.guards.base import Status
from corral.guards.llama_guard.grammar import SAFE, UNSAFE

USER_KEY: Final = "User Safety"
RESPONSE_KEY: Final = "Response Safety"
CATEGORIES_KEY: Final = "Safety Categories"
KEYS: Final = (USER_KEY, RESPONSE_KEY, CATEGORIES_KEY)
KEY_OF: Final[dict[Target, str]] = {"prompt": USER_KEY, "response": RESPONSE_KEY}
SEPARATORS: Final = ",;\n\u060c\u061b\u3001\uff0c\uff1b"

_NOTHING: Final = frozenset({"", "none", "n/a", "null", "[]"})
_LONGEST: Final = 20_000
# What Chinese, Japanese, Arabic and French typography puts in the place of JSON's marks, one character for one.
_MARKS: Final = str.maketrans(
    {**dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\uff02", '"')}
    | {"\uff1a": ":", "\uff0c": ",", "\uff5b": "{", "\uff5d": "}"}
)
# ASCII letters only: case folding beyond it would read the long s of another alphabet as ours.
_KEY: Final = re.compile(
    rf"""["']?\s*({"|".join(key.replace(" ", "[ _-]?") for key in KEYS)})\s*["']?\s*:""", re.IGNORECASE | re.ASCII
)
_QUOTES: Final = "\"'`\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\uff02 \t\r\n"
_Fields = dict[str, list[Any]]
_NONE: Final = "no object with a verdict"
_SEVERAL: Final = "more than one object, or one inside another"


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says about one message.

    Attributes:
        unsafe: ``None`` when it says nothing that can be used.
        status: ok, or why not.
        detail: the reason in words; quotes nothing of the answer.
    """

    unsafe: bool | None
    status: Status = Status.OK
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What could be read of an answer.

    Attributes:
        said: about each message that is there.
        categories: qualified codes that it names, in its order.
        unknown_categories: how many more it names that the prompt does not list.
        ignored: verdicts on a response that is not there.
    """

    said: dict[Target, Said] = field(hash=False)
    categories: tuple[str, ...] = ()
    unknown_categories: int = 0
    ignored: int = 0


def format_answer(prompt: bool, response: bool | None = None, categories: Sequence[str] = ()) -> str:
    """The object that says what is unsafe, on one line.

    Args:
        prompt: the request is unsafe.
        response: the reply is; ``None`` without one.
        categories: names of what is violated.
    """
    values = {USER_KEY: _word(prompt)}
    if response is not None:
        values[RESPONSE_KEY] = _word(response)
    if categories:
        values[CATEGORIES_KEY] = ", ".join(categories)
    return json.dumps(values, ensure_ascii=False)


def format_until(key: str, prompt: bool | None = None, response: bool | None = None) -> str:
    """The beginning of ``format_answer`` up to where the value of ``key`` begins.

    Args:
        key: one of ``KEYS``.
        prompt: what was said about the request, if ``key`` is not the first.
        response: what was said about the reply, if ``key`` is the last and there is one.
    """
    if prompt is None:
        return f'{{"{key}": "'
    return f'{format_answer(prompt, response)[:-1]}, "{key}": "'


def split_categories(value: str) -> list[str]:
    """The words of a list of categories, without quotation marks, brackets and what stands for none."""
    words = (word.strip(_QUOTES + ".[]") for word in re.split(f"[{SEPARATORS}]", value))
    return [word for word in words if word.lower() not in _NOTHING]


def parse_answer(
    text: str, resolve: Callable[[str], str | None], *, reply: bool, complete: bool = True
) -> ParsedAnswer:
    """Read what a model wrote; never raises. Linear in the length of the text; beyond 20,000 characters none is read.

    Args:
        text: the model's words.
        resolve: from a category as it is written to its qualified code; ``None`` for one that the prompt has not.
        reply: there is a response to judge.
        complete: false when the model was cut off.
    """
    targets: tuple[Target, ...] = TARGETS if reply else ("prompt",)
    fields = _object(text)
    if isinstance(fields, str):
        return ParsedAnswer(dict.fromkeys(targets, _no_answer(text, fields, complete)))
    said = {target: _said(fields.get(KEY_OF[target], ()), KEY_OF[target]) for target in targets}
    named = [word for value in fields.get(CATEGORIES_KEY, ()) for word in _words(value)]
    ignored = fields.get(RESPONSE_KEY, []) if not reply else []
    if (why := _contradiction(text, fields, said, named=bool(named), ignored=ignored)) is not None:
        contradiction = Said(None, Status.UNPARSEABLE, why)
        said = {target: contradiction if each.unsafe is False else each for target, each in said.items()}
    codes = [resolve(word) for word in named]
    known = tuple(dict.fromkeys(code for code in codes if code is not None))
    return ParsedAnswer(said, known, sum(code is None for code in codes), len(ignored))


def _word(unsafe: bool) -> str:
    return UNSAFE if unsafe else SAFE


def _no_answer(text: str, why: str, complete: bool) -> Said:
    if why == _NONE and not complete:
        return Said(None, Status.TRUNCATED, "the answer was cut off before its object ended")
    if why == _NONE and opens_with_refusal(text):
        return Said(None, Status.REFUSED, "the model declined to judge")
    return Said(None, Status.UNPARSEABLE, why)


def _contradiction(
    text: str, fields: _Fields, said: Mapping[Target, Said], *, named: bool, ignored: Sequence[Any]
) -> str | None:
    """Why what is called safe may not be; ``None`` when nothing speaks against it."""
    within = sum(str(value).lower().count(UNSAFE) for values in fields.values() for value in values)
    if text.lower().count(UNSAFE) > within:
        return f"the answer says `{UNSAFE}` beside its verdicts"
    if any(each.unsafe for each in said.values()):
        return None
    if named:
        return "categories are named, but nothing that is there is unsafe"
    if any(_said([value], RESPONSE_KEY).unsafe is not False for value in ignored):
        return "a response that is not there is called unsafe, but nothing that is there is"
    return None


def _said(values: Sequence[Any], key: str) -> Said:
    if len(values) != 1:
        return Said(None, Status.UNPARSEABLE, f"`{key}` is {'missing' if not values else 'given twice'}")
    word = values[0].strip(_QUOTES).lower() if isinstance(values[0], str) else None
    if word not in (SAFE, UNSAFE):
        return Said(None, Status.UNPARSEABLE, f"`{key}` is neither `{SAFE}` nor `{UNSAFE}`")
    return Said(word == UNSAFE)


def _words(value: Any) -> list[str]:
    """Category names in a value: a string, or a list of them; anything else is one name that no list has."""
    if value is None:
        return []
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    return split_categories(value) if isinstance(value, str) else ["?"]


def _object(text: str) -> _Fields | str:
    """Values by key of the one flat object in a text, or why there is none. A key may have several values."""
    if len(text) > _LONGEST:
        return f"an answer of more than {_LONGEST:,} characters"
    plain = text.translate(_MARKS)  # one character for one, so that places in both are the same
    start, stop = plain.find("{"), plain.rfind("}") + 1
    if start < 0 or stop <= start:
        return _NONE
    around = f"{plain[:start]}\n{plain[stop:]}"
    if "{" in around or "}" in around or _KEY.search(around):
        return _SEVERAL
    for each in dict.fromkeys((text[start:stop], plain[start:stop])):
        try:
            pairs = json.loads(each, object_pairs_hook=_Pairs, parse_constant=str)
        except (ValueError, RecursionError):
            continue
        return _collected(pairs) or _NONE if _is_flat(pairs) else _SEVERAL
    body = plain[start + 1 : stop - 1]
    return _SEVERAL if "{" in body or "}" in body else _scan(body) or _NONE


class _Pairs(list[tuple[str, Any]]):
    """The pairs of an object, whose keys may repeat."""


def _is_flat(pairs: Any) -> bool:
    """Whether an object holds nothing but values, and lists of values."""
    if not isinstance(pairs, _Pairs):
        return False
    values = [value for _, value in pairs]
    inner = [each for value in values if isinstance(value, list) for each in value]
    return not any(isinstance(value, _Pairs) for value in values) and not any(isinstance(each, list) for each in inner)


def _collected(pairs: Sequence[tuple[str, Any]]) -> _Fields:
    fields: _Fields = {}
    for key, value in pairs:
        if (known := _known_key(key)) is not None:
            fields.setdefault(known, []).append(value)
    return fields


def _scan(body: str) -> _Fields:
    """The same of an object's inside that is no JSON: a value goes from a key's colon to the next key or the end."""
    fields: _Fields = {}
    keys = list(_KEY.finditer(body))
    if keys and body[: keys[0].start()].strip():
        return {}  # something stands before the first key: whatever it is, it is not known
    for number, match in enumerate(keys, start=1):
        stop = keys[number].start() if number < len(keys) else len(body)
        value = body[match.end() : stop].strip(_QUOTES + ",")
        fields.setdefault(str(_known_key(match[1])), []).append(value)
    return fields


def _known_key(key: str) -> str | None:
    folded = re.sub(r"[\s_-]+", "", key).lower()
    return _FOLDED_KEYS.get(folded)


_FOLDED_KEYS: Final = {key.replace(" ", "").lower(): key for key in KEYS}
