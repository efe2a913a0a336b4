"""Property tests here touch the disk of a machine that may be busy: they are not timed."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
