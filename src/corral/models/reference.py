"""Naming a model: a hub id, a folder, a GGUF file, or an embedded model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import NotFoundError
from corral.models import embedded

_HUB_ID: Final = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Where a model comes from.

    Attributes:
        kind: ``embedded``, ``folder``, ``gguf`` or ``hub``.
        name: the embedded name, the path, or the hub id.
        revision: hub branch, tag or commit; ``None`` for the default branch.
    """

    kind: Literal["embedded", "folder", "gguf", "hub"]
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | Path | ModelRef) -> ModelRef:
        """Read ``embedded:NAME``, a path to a folder or ``.gguf`` file, or ``owner/name[@revision]``.

        An existing path wins over a hub id of the same spelling.

        Raises:
            NotFoundError: a path that does not exist, an unknown embedded model, or text that is none of these.
        """
        if isinstance(text, ModelRef):
            return text
        name = str(text)
        if name.startswith(embedded.PREFIX):
            return cls("embedded", embedded.embedded_model(name).name)
        path = Path(name).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            return cls("gguf", str(path))
        if name and path.is_dir():
            return cls("folder", str(path))
        match = _HUB_ID.fullmatch(name)
        if isinstance(text, Path) or path.suffix == ".gguf" or match is None or name.startswith("."):
            raise NotFoundError(
                f"no model folder or GGUF file at `{name}`",
                hint="Give a folder, a .gguf file, a hub id such as `owner/name`, or "
                + ", ".join(f"`{embedded.PREFIX}{known}`" for known in embedded.EMBEDDED_MODELS)
                + ".",
            )
        return cls("hub", match["name"], match["revision"])

    def __str__(self) -> str:
        if self.kind == "embedded":
            return f"{embedded.PREFIX}{self.name}"
        return f"{self.name}@{self.revision}" if self.revision else self.name
