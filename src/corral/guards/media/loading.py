"""Guards of images and clips by name."""

from __future__ import annotations

from typing import Any, Final, Protocol

from corral.core.registry import Registry
from corral.guards.loading import check_settings
from corral.guards.media.base import MediaGuard


class MediaGuardLoader(Protocol):
    """A class whose ``load`` makes a guard of images and clips from settings."""

    def load(self, **settings: Any) -> MediaGuard:
        """Make the guard."""


MEDIA_GUARDS: Final = Registry[MediaGuardLoader]("media guard")
MEDIA_GUARDS.register("moderation-api-media", "corral.guards.media.moderation_api:ModerationApi")
MEDIA_GUARDS.register("open-nsfw", "corral.guards.media.open_nsfw:OpenNsfw")
MEDIA_GUARDS.register("scripted-media", "corral.guards.media.scripted:ScriptedMedia")
MEDIA_GUARDS.register("vision", "corral.guards.media.vision:Vision")


def load_media_guard(name: str = "open-nsfw", /, **settings: Any) -> MediaGuard:
    """Make a guard of images and clips.

    Args:
        name: one of ``MEDIA_GUARDS.names()``.
        settings: what its ``load`` takes, for example ``frames=32``.

    Raises:
        NotFoundError: no media guard of that name.
        ConfigError: a setting that it does not have, or a value of the wrong type; ``where`` is ``guard.setting``.
        MissingDependencyError: ``corral[media]`` is not installed.
    """
    loader = MEDIA_GUARDS.get(name)
    check_settings(name, loader, settings)
    return loader.load(**settings)
