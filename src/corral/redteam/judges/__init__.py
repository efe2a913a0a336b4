"""Judges: did a reply do what was asked, or did it refuse?

A judge reads the plain request, never the wrapper that an attack put around it, and the reply. It labels each pair
with one ``Outcome``. Attack success counts ``COMPLIES`` on harmful requests, over-refusal counts ``REFUSES`` on benign
ones; what is neither counts for neither, and what a judge could not label (``UNPARSED``) is left out and counted.

Judges differ by far more than models do, so every figure names its judge and the judge's revision.
"""

from corral.redteam.judges.asking import RubricJudge, YesNoJudge
from corral.redteam.judges.base import Judge, Judgement, Outcome, answer_id
from corral.redteam.judges.decoding import judge_decoded
from corral.redteam.judges.ensemble import EnsembleJudge, vote
from corral.redteam.judges.guard import GuardJudge
from corral.redteam.judges.human import HumanFileJudge
from corral.redteam.judges.prefix_list import PrefixListJudge

__all__ = [
    "EnsembleJudge",
    "GuardJudge",
    "HumanFileJudge",
    "Judge",
    "Judgement",
    "Outcome",
    "PrefixListJudge",
    "RubricJudge",
    "YesNoJudge",
    "answer_id",
    "judge_decoded",
    "vote",
]
