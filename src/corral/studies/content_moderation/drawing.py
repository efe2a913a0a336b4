"""What the study judges and with what: items of text sets, controls and made media; moderators, made when needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from corral.core.errors import ConfigError
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.self_written import self_written_rows
from corral.data.splits import group_fraction
from corral.evals.baselines import BagOfWordsGuard, train_bag_of_words
from corral.evals.tasks.content_moderation.items import Item, read_manifest, text_item
from corral.evals.tasks.content_moderation.moderators import MediaModerator, TextModerator
from corral.evals.tasks.content_moderation.text_sets import control_items, text_items
from corral.guards.json_judge.guard import JsonJudgeGuard, Mode
from corral.guards.loading import load_guard
from corral.guards.media.frame_guard import FrameGuard
from corral.guards.media.loading import load_media_guard
from corral.guards.media.moderation_api import ModerationApiScorer
from corral.guards.media.vision import VisionScorer
from corral.guards.moderation_api.client import ModerationClient
from corral.guards.moderation_api.guard import ModerationApiGuard
from corral.models.engines.base import Engine
from corral.studies.content_moderation.made_media import broken_media, made_clips, made_images
from corral.studies.content_moderation.settings import ContentModerationConfig, EndpointConfig
from corral.studies.drawing import draw_mixture

CLASSIC_TEST: Final = "davidson"
"""The one public set that the bag of words is fitted to a part of; its items are drawn from the rest."""


def draw_text(config: ContentModerationConfig) -> list[Item]:
    """Items of the public sets, then the controls, then self-written requests where there is no other harm."""

    def is_kept(row: ModerationExample) -> bool:
        return row.source != CLASSIC_TEST or _is_held_out(row, config)

    items = [
        item
        for name, limit in config.text_sets.items()
        for item in text_items(name, limit=limit, seed=config.seed, keep=is_kept)
    ]
    items += control_items(places=config.control_places, seed=config.seed)
    if config.self_written_harmful:
        rows = [row for row in self_written_rows("guard_basics") if row.target == "prompt" and row.harmful]
        items += [text_item(row, style="prompt", category="") for row in rows]
    return items


def draw_media(config: ContentModerationConfig, folder: Path) -> list[Item]:
    """Made pictures and clips, broken ones, and the user's own."""
    made = made_images(folder, config.images, seed=config.seed)
    made += made_clips(folder, config.clips, frames=config.clip_frames, seed=config.seed)
    own = list(read_manifest(Path(config.manifest))) if config.manifest else []
    return [*made, *broken_media(folder, seed=config.seed), *own]


def fitted_baseline(config: ContentModerationConfig) -> BagOfWordsGuard:
    """The bag of words, fitted to the drawn mixture and calibrated on held-out groups of it."""
    classic = config.classic
    rows = draw_mixture(classic.mixture, keep_clean_of=classic.keep_clean_of, seed=config.seed).rows
    training = [row for row in rows if not _is_held_out(row, config)]
    held_out = [row for row in rows if _is_held_out(row, config) and row.source != CLASSIC_TEST]
    return train_bag_of_words(training, held_out, split="held-out groups of the mixture", seed=config.seed)


def _is_held_out(row: ModerationExample, config: ContentModerationConfig) -> bool:
    return group_fraction(row.group, seed=config.seed) < config.classic.held_out


def text_guard(config: ContentModerationConfig) -> TextModerator:
    """The trained guard of text."""
    return TextModerator(load_guard(config.guard))


def judge_engine(name: str, run: Run) -> tuple[Engine, str]:
    """The prompted model and its revision; a tiny random one is written to the run."""
    from corral.models.engines.torch import TorchEngine
    from corral.models.loading import weights_revision
    from corral.models.tiny import TINY, write_tiny_llama

    ref = str(write_tiny_llama(run.path / "judge", context=4096)) if name == TINY else name
    return TorchEngine.load(ref), weights_revision(ref)


def judges(engine: Engine, revision: str) -> dict[Mode, TextModerator]:
    """The prompted model asked both ways; its score means harm of any kind."""
    modes: tuple[Mode, ...] = ("score", "write")
    return {
        mode: TextModerator(JsonJudgeGuard(engine, revision=revision, mode=mode, name=f"judge-{mode}"), overall=True)
        for mode in modes
    }


def media_moderator(config: ContentModerationConfig) -> MediaModerator:
    """The guard of pictures and clips; Open NSFW judges nudity alone."""
    guard = load_media_guard(config.media_guard, frames=config.sampled_frames)
    return MediaModerator(guard, categories=("sexual",) if config.media_guard == "open-nsfw" else ())


def endpoint_moderators(endpoints: Sequence[EndpointConfig]) -> list[TextModerator | MediaModerator]:
    """The user's servers; called when every one of them has an address.

    Raises:
        ConfigError: one has none.
    """
    return [_endpoint(each) for each in endpoints]


def _endpoint(endpoint: EndpointConfig) -> TextModerator | MediaModerator:
    if endpoint.base_url is None:
        raise ConfigError(f"`{endpoint.name}` has no server", where="endpoints")
    if endpoint.asks == "moderations":
        client = ModerationClient(endpoint.base_url, endpoint.model)
        if endpoint.reads == "pictures":
            return MediaModerator(FrameGuard(ModerationApiScorer(client, name=endpoint.name)))
        return TextModerator(ModerationApiGuard(client, name=endpoint.name))
    from corral.models.engines.openai import OpenAIEngine

    engine = OpenAIEngine(endpoint.base_url, endpoint.model)
    if endpoint.reads == "pictures":
        return MediaModerator(FrameGuard(VisionScorer(engine, name=endpoint.name)))
    return TextModerator(JsonJudgeGuard(engine, revision=endpoint.base_url, name=endpoint.name), overall=True)
