"""Policies by tenant, read again when their files change.

A folder holds ``default.yaml`` and, for tenants with rules of their own, ``TENANT.yaml``; a single file is everybody's.
A file that no longer reads keeps the policy that was in force before, says so (``problems``), and never falls back to
something laxer. The same holds for the whole folder: one that is gone, or is there without its ``default.yaml`` (a
mount that is away), is not one in which every tenant was removed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from corral.core.config import Config, load_config
from corral.core.errors import CorralError, NotFoundError, PolicyError, suggest
from corral.core.files import atomic_write_bytes
from corral.core.yaml import parse_yaml
from corral.guards.base import Guard
from corral.guards.composition.specs import GuardSpec, name_of
from corral.guards.moderator import Moderator
from corral.guards.policy import Policy

DEFAULT_TENANT: Final = "default"
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_SUFFIX: Final = ".yaml"


class StreamRules(Config):
    """How a streamed reply is judged.

    Attributes:
        mode: ``windows`` holds text back until the window that covers it passed, ``buffer`` until the whole reply
            passed, ``post_hoc`` lets it through and judges it at the end.
        window_chars: characters judged at once.
        overlap_chars: characters that consecutive windows share. A passage of at most so many characters is judged
            whole before any of it leaves.
    """

    mode: Literal["windows", "buffer", "post_hoc"] = "windows"
    window_chars: Annotated[int, Field(ge=16, le=100_000)] = 400
    overlap_chars: Annotated[int, Field(ge=0)] = 200

    @model_validator(mode="after")
    def _windows_advance(self) -> StreamRules:
        if self.overlap_chars >= self.window_chars:
            raise ValueError(f"an overlap of {self.overlap_chars} leaves a window of {self.window_chars} standing")
        return self


class ServePolicy(Policy):
    """A policy with what a server needs beside it.

    Attributes:
        mode: ``shadow`` judges and records, and lets everything through.
        stream: how streamed replies are judged.
        message: what the gateway says in place of a request or reply that was stopped.
        content: what the audit log keeps of a text beside its keyed hash: nothing, the text with e-mail addresses and
            numbers masked, or the text.
    """

    mode: Literal["enforce", "shadow"] = "enforce"
    stream: StreamRules = StreamRules()
    message: Annotated[str, Field(min_length=1, max_length=2000)] = "This was stopped by the content policy."
    content: Literal["hash", "redacted", "full"] = "hash"


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy in force.

    Attributes:
        tenant: whose.
        policy: the rules.
        text: the YAML it was read from, "" for the packaged default.
        loaded_at: seconds since the epoch.
    """

    tenant: str
    policy: ServePolicy
    text: str
    loaded_at: float


class PolicyStore:
    """The policies of a server.

    Args:
        source: a file, a folder, or ``None`` for the packaged default.
        guards: the loaded guards; a policy may name only these.
        default_guards: asked where a policy names none.
        specs: how guards were loaded, by name; see ``Moderator``.

    Raises:
        NotFoundError: no such file, or a folder without ``default.yaml``.
        PolicyError: a file that cannot be applied.
    """

    def __init__(
        self,
        source: Path | None,
        guards: Mapping[str, Guard],
        default_guards: Sequence[str],
        specs: Mapping[str, GuardSpec] = MappingProxyType({}),
    ) -> None:
        self.source = source
        self._is_folder = source is not None and source.is_dir()
        self._guards = dict(guards)
        self._default_guards = tuple(default_guards)
        self._specs = specs
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedPolicy] = {}
        self._signatures: dict[str, tuple[int, ...]] = {}
        self._problems: dict[str, str] = {}
        self._away: str | None = None
        self._read_first()

    @property
    def editable(self) -> bool:
        """Whether there are files to write."""
        return self.source is not None

    @property
    def problems(self) -> dict[str, str]:
        """By tenant, why its file is not in force as it stands; under everybody's name where all files are away."""
        return self._problems | ({DEFAULT_TENANT: self._away} if self._away is not None else {})

    def loaded(self) -> list[LoadedPolicy]:
        """Every policy in force, by tenant."""
        return [self._loaded[tenant] for tenant in sorted(self._loaded)]

    def of(self, tenant: str) -> ServePolicy:
        """The tenant's policy, or everybody's."""
        return self.entry(tenant).policy

    def entry(self, tenant: str) -> LoadedPolicy:
        """As ``of``, with where it is from."""
        loaded = self._loaded
        return loaded.get(tenant) or loaded[DEFAULT_TENANT]

    def guards_of(self, policy: ServePolicy, added: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of the guards that judge: the policy's, and those that a client asks for on top.

        Raises:
            NotFoundError: a client asks for a guard that is not loaded.
        """
        for name in added:
            if name not in self._guards:
                raise NotFoundError(f"no guard `{name}` is loaded", hint=suggest(name, self._guards))
        named = tuple(map(name_of, policy.asked))
        return tuple(dict.fromkeys([*(named or self._default_guards), *added]))

    def check(self, text: str, *, where: str) -> ServePolicy:
        """The policy that a YAML text holds.

        Raises:
            PolicyError: it cannot be applied here.
        """
        try:
            values = parse_yaml(text, where=where)
            policy = load_config(ServePolicy, {} if values is None else values)
            loaded = [self._guards[name] for name in self.guards_of(policy) if name in self._guards]
            Moderator(loaded, policy, specs=self._specs)
        except CorralError as error:
            field = error.where if error.where and error.where != where else ""
            located = field if field.startswith(where) else ": ".join(filter(None, [where, field]))
            raise PolicyError(error.message, where=located, hint=error.hint) from error
        return policy

    def save(self, tenant: str, text: str) -> ServePolicy:
        """Check a policy, write its file, and put it in force.

        Raises:
            PolicyError: it cannot be applied, there is no file to write, or the files are away; nothing changes then.
        """
        path = self._path(tenant)
        policy = self.check(text, where=path.name)
        with self._lock:
            if DEFAULT_TENANT not in self._paths():
                raise PolicyError(
                    f"{self._absence} any more", where=str(path.parent), hint="Bring the files back first."
                )
            atomic_write_bytes(path, text.encode())
            self._put(tenant, path, text, policy)
        return policy

    def reload(self) -> list[str]:
        """Read the files that changed; returns the tenants whose policy is another now.

        A tenant whose file was removed has everybody's policy. While the files are away nothing changes.
        """
        if self.source is None:
            return []
        changed = []
        with self._lock:
            paths = self._paths()
            self._away = None if DEFAULT_TENANT in paths else f"{self.source.name}: {self._absence}; all policies stay"
            if self._away is not None:
                return []
            for tenant, path in paths.items():
                signature = _signature(path)
                if signature is None or signature == self._signatures.get(tenant):
                    continue
                self._signatures[tenant] = signature
                if self._reread(tenant, path):
                    changed.append(tenant)
            changed += self._forget(paths)
        return changed

    def _reread(self, tenant: str, path: Path) -> bool:
        try:
            text = path.read_text(encoding="utf-8")
            policy = self.check(text, where=path.name)
        except (OSError, UnicodeDecodeError) as error:
            self._problems[tenant] = f"{path.name}: cannot be read ({type(error).__name__})"
        except PolicyError as error:
            self._problems[tenant] = str(error)
        else:
            before = self._loaded.get(tenant)
            self._put(tenant, path, text, policy)
            return before is None or before.policy.hash != policy.hash
        return False

    def _forget(self, paths: Mapping[str, Path]) -> list[str]:
        gone = [tenant for tenant in self._loaded if tenant not in paths]
        self._loaded = {tenant: entry for tenant, entry in self._loaded.items() if tenant in paths}
        for known in (self._signatures, self._problems):
            for tenant in [tenant for tenant in known if tenant not in paths]:
                del known[tenant]
        return gone

    def _put(self, tenant: str, path: Path, text: str, policy: ServePolicy) -> None:
        # A new dictionary: readers in other threads never see one that is being changed.
        self._loaded = self._loaded | {tenant: LoadedPolicy(tenant, policy, text, time.time())}
        self._signatures[tenant] = _signature(path) or ()
        self._problems.pop(tenant, None)

    def _read_first(self) -> None:
        if self.source is None:
            policy = self.check("", where="default policy")
            self._loaded = {DEFAULT_TENANT: LoadedPolicy(DEFAULT_TENANT, policy, "", time.time())}
            return
        paths = self._paths()
        if DEFAULT_TENANT not in paths:
            hint = "Write one: it is the policy of every tenant without a file of its own." if self._is_folder else None
            raise NotFoundError(self._absence, where=str(self.source), hint=hint)
        for tenant, path in paths.items():
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise NotFoundError(f"cannot be read: {error.strerror}", where=str(path)) from error
            except UnicodeDecodeError as error:
                raise PolicyError("not UTF-8", where=str(path)) from error
            self._put(tenant, path, text, self.check(text, where=str(path)))

    @property
    def _absence(self) -> str:
        return f"there is no `{DEFAULT_TENANT}{_SUFFIX}`" if self._is_folder else "there is no such file"

    def _paths(self) -> dict[str, Path]:
        """By tenant, the files that are there; none where that cannot be told."""
        if self.source is None:
            return {}
        try:
            if not self._is_folder:
                return {DEFAULT_TENANT: self.source} if self.source.exists() else {}
            found = sorted(self.source.glob(f"*{_SUFFIX}"))
        except OSError:
            return {}
        return {path.stem: path for path in found if re.match(TENANT_PATTERN, path.stem)}

    def _path(self, tenant: str) -> Path:
        if self.source is None:
            raise PolicyError("the server was started without a policy file", hint="Start it with `--policy PATH`.")
        if not re.match(TENANT_PATTERN, tenant):
            raise PolicyError(f"`{tenant}` is not a tenant's name", hint="Use a-z, 0-9, `_` and `-`.")
        if not self._is_folder:
            if tenant != DEFAULT_TENANT:
                raise PolicyError(
                    "the server has one policy for everybody", hint="Start it with a folder: `--policy FOLDER`."
                )
            return self.source
        return self.source / f"{tenant}{_SUFFIX}"


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
