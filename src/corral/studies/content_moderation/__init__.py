"""The content moderation study: text, pictures and clips through real models (arXiv 2411.17123, design our own).

The paper's result tables and prompts are not available, so no published number is printed; its statements stand in the
report as hypotheses, each with whether our run agrees. Items are public text sets, self-written controls, and pictures
and clips that the study makes. Every verdict is kept, so a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from corral.core.errors import ConfigError
from corral.core.files import atomic_write_json, atomic_write_text
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.splits import group_fraction
from corral.evals.tasks.content_moderation.classic import KeywordModerator
from corral.evals.tasks.content_moderation.conditions import INJECTIONS, PLAIN, Condition
from corral.evals.tasks.content_moderation.html import html
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Matrix, MatrixResult, merged
from corral.evals.tasks.content_moderation.moderators import ItemModerator, TextModerator
from corral.evals.tasks.content_moderation.report import report_of
from corral.evals.tasks.content_moderation.text_sets import CONTROLS
from corral.studies.claims import tell, write_evidence
from corral.studies.content_moderation.drawing import (
    draw_media,
    draw_text,
    endpoint_moderators,
    fitted_baseline,
    judge_engine,
    judges,
    media_moderator,
    text_guard,
)
from corral.studies.content_moderation.findings import FINDERS, Study, hypotheses_of
from corral.studies.content_moderation.pooling import as_table, pooling_table
from corral.studies.content_moderation.settings import CLAIMS, ContentModerationConfig
from corral.studies.drawing import source_files

_REPEATED: Final = 6
_NOTE: Final = (
    "Pictures and clips here are made of shapes: they show that the pipeline works and what it costs. No accuracy on "
    "pictures can be shown without a licensed set; the packaged picture model judges nudity alone."
)


class ContentModerationRecipe:
    """Judges text, pictures and clips with several moderators under several conditions, and tests four claims."""

    name = "content_moderation"
    config_class = ContentModerationConfig

    def plan(self, config: ContentModerationConfig) -> list[str]:
        """What the run will do, a line a step."""
        if missing := config.missing():
            return [f"missing: {each}" for each in missing]
        sets = ", ".join(f"{limit} of {name}" for name, limit in config.text_sets.items()) or "self-written texts only"
        return [
            f"draw texts: {sets}; self-written controls of {config.control_places} places",
            f"make {config.images} pictures and {config.clips} clips, and some that are broken",
            f"fit a bag of words to {len(config.classic.mixture)} sources; ask keywords, `{config.guard}`, "
            f"`{config.judge}`, `{config.media_guard}` and {len(config.endpoints)} endpoints",
            f"disturb texts by {', '.join(config.text_perturbations)}; inject {', '.join(INJECTIONS)}",
            f"test {', '.join(CLAIMS)}; write artefacts/evidence.json, report.json, .md, .html and cells.csv",
        ]

    def run(self, config: ContentModerationConfig, run: Run) -> None:
        """Judge; ``evidence.json``, ``report.json``, ``.md`` and ``.html``, and ``cells.csv`` are the artefacts.

        Raises:
            ConfigError: endpoints or media that the settings name are missing; lists them.
            NotFoundError: a source is not in the data folder.
            MissingDependencyError: ``corral[media]`` is not installed.
        """
        if missing := config.missing():
            raise ConfigError("these settings are missing:\n" + "\n".join(missing), hint="Give each with --set.")
        for file in source_files([*config.text_sets, *(entry.source for entry in config.classic.mixture)]):
            run.add_input(file)
        study = _judged(config, run)
        claims = {}
        for find in FINDERS:
            claim = find(study)
            claims[claim.claim] = tell(claim)
        pooling = pooling_table(config.video, seed=config.seed)
        report = report_of(
            study.result,
            hypotheses=hypotheses_of(study, claims),
            notes=[_NOTE],
            more=[as_table(pooling)],
            seed=config.seed,
            replicates=config.replicates,
        )
        atomic_write_json(run.artefacts / "report.json", report.to_json() | {"pooling": pooling})
        atomic_write_text(run.artefacts / "report.md", report.to_markdown(show_content=config.show_content))
        atomic_write_text(run.artefacts / "report.html", html(report, show_content=config.show_content))
        atomic_write_text(run.artefacts / "cells.csv", report.to_csv())
        write_evidence(run, config, list(claims.values()))
        run.add_output(run.artefacts)
        run.report({name: {"holds": claim.holds, "ci95": claim.ci95} for name, claim in claims.items()})


def _judged(config: ContentModerationConfig, run: Run) -> Study:
    texts = draw_text(config)
    media = draw_media(config, run.path / "media")
    guard, pictures = text_guard(config), media_moderator(config)
    results = [_filled(matrix) for matrix in _matrices(config, run, _Drawn(texts, media, guard, pictures))]
    repeats = all(
        _repeats(moderator, [item for item in items if item.modality == modality][:_REPEATED])
        for moderator, items, modality in (
            (guard, texts, "text"),
            (pictures, media, "image"),
            (pictures, media, "video"),
        )
    )
    return Study(config, merged(results), guard.name, pictures.name, repeats)


@dataclass(frozen=True)
class _Drawn:
    """Items, and the moderators that are asked more than once."""

    texts: Sequence[Item]
    media: Sequence[Item]
    guard: ItemModerator
    pictures: ItemModerator


def _matrices(config: ContentModerationConfig, run: Run, drawn: _Drawn) -> Iterator[Matrix]:
    """Cheap moderators see everything, slow ones a part; the engine is loaded when its turn comes."""
    folder = run.path / "cells"
    disturbed, injected = _disturbed(config), [Condition.model_validate({"injection": name}) for name in INJECTIONS]
    texts, media = drawn.texts, drawn.media
    part = _part(texts, config)
    classic = [TextModerator(KeywordModerator()), TextModerator(fitted_baseline(config))]
    yield Matrix(texts, classic, [PLAIN, *disturbed], folder, batch_size=256)
    yield Matrix(part, classic, injected, folder, batch_size=256)
    yield Matrix(texts, [drawn.guard], [PLAIN], folder)
    yield Matrix(part, [drawn.guard], [*_strongest(config), *injected], folder)
    disturbed_pictures = [
        Condition(perturbation=name, strength=config.image_strength) for name in config.image_perturbations
    ]
    yield Matrix(media, [drawn.pictures], [PLAIN, *disturbed_pictures], folder, batch_size=8)
    for endpoint in endpoint_moderators(config.endpoints):
        yield Matrix([*texts, *media], [endpoint], [PLAIN], folder, batch_size=8)
    if config.judge is not None:
        asked = judges(*judge_engine(config.judge, run))
        yield Matrix(part, [asked["score"]], [PLAIN, *injected], folder)
        step = max(1, len(part) // max(config.written_items, 1))
        yield Matrix(part[::step][: config.written_items], [asked["write"]], [PLAIN], folder)


def _filled(matrix: Matrix) -> MatrixResult:
    names = ", ".join(each.name for each in matrix.moderators)
    milestone(f"{names}: {len(matrix.items)} items x {len(matrix.conditions)} conditions")
    return matrix.run()


def _disturbed(config: ContentModerationConfig) -> list[Condition]:
    """Every perturbation at every strength and seed, and the strongest of each again with folding."""
    strongest = max(config.strengths)
    plain = [
        Condition(perturbation=name, strength=strength, seed=seed)
        for name in config.text_perturbations
        for strength in config.strengths
        for seed in config.seeds
    ]
    return plain + [each.model_copy(update={"fold": True}) for each in plain if each.strength == strongest]


def _strongest(config: ContentModerationConfig) -> list[Condition]:
    """The strongest of each perturbation under the first seed, without and with folding."""
    first, strongest = config.seeds[0], max(config.strengths)
    return [each for each in _disturbed(config) if (each.seed, each.strength) == (first, strongest)]


def _part(texts: Sequence[Item], config: ContentModerationConfig) -> list[Item]:
    """The controls and other items that slow moderators see, drawn by cluster: twins stay together."""
    ranked = sorted(texts, key=lambda item: (group_fraction(item.cluster, seed=config.seed), item.cluster))
    controls = [item.id for item in ranked if item.source == CONTROLS][: config.judge_controls]
    others = [item.id for item in ranked if item.source != CONTROLS][: config.judge_items]
    chosen = {*controls, *others}
    return [item for item in texts if item.id in chosen]


def _repeats(moderator: ItemModerator, items: Sequence[Item]) -> bool:
    """Whether judging the items twice gives the very same scores."""
    first, second = ([verdict.p_harm for verdict in moderator.judge(items, PLAIN)] for _ in range(2))
    return first == second


RECIPE: Final = ContentModerationRecipe()
