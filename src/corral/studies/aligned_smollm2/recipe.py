"""The recipe: draw prompts, let the base model answer, train, measure beside the base, and write claims and report."""

from __future__ import annotations

from typing import Final

from corral.core.files import atomic_write_text
from corral.core.runs import Run
from corral.data.self_written.replies import helpful_answers, refusals
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.aligned_smollm2.card import CARD, model_card
from corral.studies.aligned_smollm2.evidence import all_claims, capability, refusal_tables
from corral.studies.aligned_smollm2.measures import measure, sources_asked
from corral.studies.aligned_smollm2.rows import draw_prompts, source_names
from corral.studies.aligned_smollm2.settings import AlignedConfig
from corral.studies.aligned_smollm2.training import train
from corral.studies.claims import write_evidence
from corral.studies.drawing import keep_account, source_files

ROWS: Final = "rows.json"
_TINY_CONTEXT: Final = 1024


class AlignedRecipe:
    """Teaches a small chat model to refuse what is harmful and to answer what only sounds so."""

    name = "aligned_smollm2"
    config_class = AlignedConfig

    def plan(self, config: AlignedConfig) -> list[str]:
        """What the run will do, a line a step."""
        prompts, asked = config.prompts, config.evaluation
        return [
            f"draw {len(prompts.harmful)} entries of harmful and {len(prompts.benign)} of harmless prompts, clean of "
            f"{len(prompts.keep_clean_of)} evaluation sources",
            f"let {config.base} answer the harmless ones and those of the pairs",
            f"fine-tune it on refusals and helpful answers, {config.sft.epochs} epoch(s), then on pairs of both, "
            f"{config.dpo.epochs} epoch(s)",
            f"ask base and trained model {sum(asked.harmful.values())} harmful and {sum(asked.benign.values())} "
            f"harmless requests; measure {', '.join(asked.ability) or 'nothing else'}",
            "write artefacts/adapter with its card, artefacts/evidence.json and the report",
        ]

    def run(self, config: AlignedConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            RunError: the run to be continued was drawn from other rows.
        """
        config = _with_base(config, run)
        for file in source_files([*source_names(config), *sources_asked(config.evaluation)]):
            run.add_input(file)
        prompts = draw_prompts(config)
        keep_account(run.artefacts / ROWS, prompts.account)
        adapter = train(prompts, config, run)
        found = measure(config, adapter, run)
        claims = all_claims(found, config)
        atomic_write_text(adapter / CARD, model_card(found, prompts.account))
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(
            {
                "claims": {claim.claim: claim.holds for claim in claims},
                "refusals": refusal_tables(found.replies),
                "capability": capability(found.replies),
                "ability": None if found.ability is None else found.ability.model_dump(mode="json"),
                "rows": prompts.account,
                "adapter": str(adapter.relative_to(run.path)),
            }
        )


def _with_base(config: AlignedConfig, run: Run) -> AlignedConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the self-written texts."""
    if config.base != TINY:
        return config
    words = [text for pair in helpful_answers() for text in pair] + list(refusals().general)
    base = write_tiny_llama(run.path / "base", seed=config.seed, layers=2, context=_TINY_CONTEXT, words_of=words)
    return config.model_copy(update={"base": str(base)})


RECIPE: Final = AlignedRecipe()
