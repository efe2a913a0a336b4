"""Named selections of styles, and what they would hold beside that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from corral.core.errors import ConfigError
from corral.core.registry import Registry
from corral.redteam.styles.base import Style
from corral.redteam.styles.registry import PLAIN, SEARCHES, STYLES, load_style


@dataclass(frozen=True, slots=True)
class Preset:
    """Styles under a name.

    Attributes:
        name: of the preset.
        styles: names of its styles.
        unavailable: styles of the published selection that are not there, each with the reason.
    """

    name: str
    styles: tuple[str, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)


EGIDA18: Final = (
    "aim_persona",
    "dual_persona",
    "dev_mode",
    "evil_confidant",
    "opposite_mode",
    "grandma",
    "prefix_injection",
    "refusal_suppression",
    "style_injection",
    "distractor",
    "base64",
    "rot13",
    "leet",
    "payload_split",
    "code_attack",
    "self_cipher",
    "deep_inception",
    "scenario_nesting",
)
"""Eighteen styles of one turn that need nothing but themselves, as many as Egida's; its own list is unpublished."""

HELD_OUT: Final = ("evil_confidant", "base64", "code_attack", "deep_inception")
"""Of ``EGIDA18``, what a defence is not trained on unless told otherwise."""

PRESETS: Final[Registry[Preset]] = Registry("preset")
for _preset in (
    Preset("egida18", EGIDA18),
    Preset("egida18-held-out", HELD_OUT),
    Preset("derta6", ("code_attack", "pair", "jailbreak_chat", "self_cipher", "completing", "autodan_ga")),
    Preset(
        "encodings", ("base64", "base64_raw", "rot13", "caesar", "atbash", "hex", "morse", "ascii_codes", "reverse")
    ),
    Preset("noise", ("leet", "disemvowel", "homoglyph", "zero_width", "zalgo")),
):
    PRESETS.register(_preset.name, _preset)


def choose_styles(names: Sequence[str], *, with_plain: bool = True) -> tuple[list[Style], dict[str, str]]:
    """Styles by the names of presets and styles, each once, and what is unavailable with the reason.

    Args:
        names: of presets and styles in any order, ``all`` for every style with its default parameters
            but those that search.
        with_plain: begin with the goal as it is, so that there is something to compare with.

    Raises:
        NotFoundError: a name that is neither.
        ConfigError: no names, or parameters that a style does not take.
    """
    if not names:
        raise ConfigError("no styles were named", hint=f"For example `{EGIDA18[0]}`, or one of {', '.join(PRESETS)}.")
    chosen = [PLAIN] if with_plain else []
    unavailable: dict[str, str] = {}
    for name in names:
        if name == "all":
            chosen += [style for style in STYLES.names() if style not in SEARCHES]
        elif name in PRESETS:
            preset = PRESETS.get(name)
            chosen += preset.styles
            unavailable |= preset.unavailable
        else:
            chosen.append(name)
    styles = {style.id: style for style in map(load_style, dict.fromkeys(chosen))}
    return list(styles.values()), unavailable
