"""Images and clips from untrusted bytes: limits before decoding, and a reason for what is not decoded.

``MediaAccess.read`` gets the bytes of a path, stream or ``data:`` URI; ``open_media`` tells what they are and gives
frames. What is broken, too large, endless or of an unknown kind raises ``core.errors.MediaError``. Pillow decodes
still and animated images, PyAV (FFmpeg) clips; both come with ``corral[media]`` and are imported when needed.
"""

from corral.data.media.access import MediaAccess
from corral.data.media.frames import OpenedMedia, TimedFrame
from corral.data.media.kinds import Modality
from corral.data.media.limits import MediaLimits
from corral.data.media.opening import open_media

__all__ = ["MediaAccess", "MediaLimits", "Modality", "OpenedMedia", "TimedFrame", "open_media"]
