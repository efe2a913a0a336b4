"""Attack styles: published jailbreak mechanisms as pure functions, in Corral's own wording, one module a family."""

from corral.redteam.styles.base import Chain, RuleStyle, Style
from corral.redteam.styles.presets import EGIDA18, HELD_OUT, PRESETS, Preset, choose_styles
from corral.redteam.styles.prompt import AnswerCode, AttackPrompt, Draft, Needs, NotApplicable, StyleContext, seeded
from corral.redteam.styles.registry import PLAIN, SEARCHES, STYLES, load_style

__all__ = [
    "EGIDA18",
    "HELD_OUT",
    "PLAIN",
    "PRESETS",
    "SEARCHES",
    "STYLES",
    "AnswerCode",
    "AttackPrompt",
    "Chain",
    "Draft",
    "Needs",
    "NotApplicable",
    "Preset",
    "RuleStyle",
    "Style",
    "StyleContext",
    "choose_styles",
    "load_style",
    "seeded",
]
