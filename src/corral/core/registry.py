"""Names to things, imported when first asked for.

The only registry in Corral: guards, sources, tasks, methods and recipes are each one ``Registry``. An entry is an
object or a ``"module:attribute"`` string written in the source, so a command line can list every name without
importing torch. Such strings never come from a config file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Generic, TypeVar, cast, overload

from corral.core.errors import ConfigError, MissingDependencyError, NotFoundError, suggest

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """Names of one kind of thing.

    Args:
        kind: the thing's name in messages, singular and lower case (``guard``, ``source``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}

    @overload
    def register(self, name: str, target: T | str) -> None: ...
    @overload
    def register(self, name: str) -> Callable[[Registered], Registered]: ...
    def register(self, name: str, target: T | str | None = None) -> Callable[[Registered], Registered] | None:
        """Add an entry; without ``target``, returns a decorator that adds what it decorates.

        Args:
            name: how it is asked for.
            target: the object, or ``"module:attribute"`` to be imported by ``get``.

        Raises:
            ConfigError: the name is empty or taken, or a string that is not ``module:attribute``.
        """
        if target is not None:
            self._add(name, target)
            return None

        def decorate(thing: Registered) -> Registered:
            self._add(name, cast("T", thing))
            return thing

        return decorate

    def get(self, name: str) -> T:
        """The entry of that name, importing it the first time.

        Raises:
            NotFoundError: no such name; the hint lists near ones.
            MissingDependencyError: the entry's module needs a package that is not installed.
        """
        if name not in self._entries:
            raise NotFoundError(f"no {self.kind} is named `{name}`", hint=suggest(name, self._entries))
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._import(name, entry)
            self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._entries)

    def _add(self, name: str, target: T | str) -> None:
        if not name:
            raise ConfigError(f"a {self.kind} needs a name")
        if name in self._entries:
            raise ConfigError(
                f"{self.kind} `{name}` is registered twice", hint="Choose another name or drop one of the two."
            )
        if isinstance(target, str) and not all(target.partition(":")):
            raise ConfigError(f"{self.kind} `{name}`: `{target}` is not of the form `module:attribute`")
        self._entries[name] = target

    def _import(self, name: str, target: str) -> T:
        module_name, _, attribute = target.partition(":")
        try:
            return cast("T", getattr(import_module(module_name), attribute))
        except ModuleNotFoundError as error:
            package = (error.name or module_name).partition(".")[0]
            if package == module_name.partition(".")[0]:
                raise  # one of our own modules is missing: a defect, not an absent dependency
            raise MissingDependencyError(
                f"{self.kind} `{name}` needs the package `{package}`",
                hint=f"Install it: `pip install {package}`",
            ) from error
