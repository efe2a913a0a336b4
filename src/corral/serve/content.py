"""What the audit log keeps of a text: a keyed hash always, and the text or a masked one where the policy says so."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import ConfigError
from corral.core.files import canonical_json
from corral.data.messages import Conversation, ImagePart, Message
from corral.serve.settings import make_private_folder

_SECRET_BYTES: Final = 32
_SECRET_FILE: Final = "secret"  # noqa: S105 - the name of a file
_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL: Final = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\+?\d(?:[\d ().-]{2,}\d|\d*)")


def load_secret(folder: Path) -> bytes:
    """The server's secret, made on first use and readable by its owner only.

    Raises:
        ConfigError: the file is there and is not a secret of the right length, or the folder cannot be made.
    """
    path = folder / _SECRET_FILE
    make_private_folder(folder)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) != _SECRET_BYTES:
            raise ConfigError(
                "is not a secret of this server",
                where=str(path),
                hint="Restore it, or remove it: hashes in the audit log then no longer compare with new ones.",
            ) from None
        return found
    secret = secrets.token_bytes(_SECRET_BYTES)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secret)
        stream.flush()
        os.fsync(stream.fileno())
    return secret


def content_hash(secret: bytes, text: str) -> str:
    """HMAC-SHA-256 of a text, in hex. Keyed, since short texts could be found from a plain hash by trying."""
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def kept_content(conversations: Sequence[Conversation], choice: Literal["hash", "redacted", "full"]) -> str | None:
    """What is stored of the judged messages: ``None``, or JSON messages with their text, masked or as it is."""
    if choice == "hash":
        return None
    mask = redacted if choice == "redacted" else str
    judged = [conversation.messages[-1] for conversation in conversations]
    return canonical_json([{"role": message.role, "content": mask(_shown(message))} for message in judged])


def redacted(text: str) -> str:
    """The text with e-mail addresses, links, and numbers of three digits or more masked.

    A filter by pattern: it does not find names, or what is spelt out.
    """
    masked = _URL.sub("[link]", _EMAIL.sub("[email]", text))
    return _NUMBER.sub(lambda found: "[number]" if sum(map(str.isdigit, found[0])) > 2 else found[0], masked)


def judged_text(conversations: Sequence[Conversation]) -> str:
    """The judged messages of one decision, role by role; pictures stand as their hash."""
    return "\n\n".join(f"{(message := c.messages[-1]).role}: {_shown(message)}" for c in conversations)


def _shown(message: Message) -> str:
    pictures = [part for part in message.content if isinstance(part, ImagePart)]
    hashes = [f"[image {hashlib.sha256(part.url.encode('utf-8', 'surrogatepass')).hexdigest()}]" for part in pictures]
    return "\n".join(filter(None, [message.text, *hashes]))
