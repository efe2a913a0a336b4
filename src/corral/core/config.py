"""Settings: frozen pydantic models, read from safe YAML, changed by dotted overrides, known by a hash.

Nothing in a config names code to import. An unknown key is an error with the nearest known key in its hint, because a
misspelt setting that is silently ignored costs a training run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from corral.core.errors import ConfigError, suggest
from corral.core.files import sha256_json
from corral.core.yaml import parse_yaml, read_yaml

C = TypeVar("C", bound="Config")
Overrides = Sequence[str] | Mapping[str, Any]


class Config(BaseModel):
    """Base of all settings: unknown keys are refused, defaults are validated, instances do not change.

    Give collections as tuples: a list would be a hole in the freeze.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def load_config(cls: type[C], source: Path | Mapping[str, Any], overrides: Overrides = ()) -> C:
    """Settings of class ``cls`` from a YAML file or a mapping, with overrides on top.

    Args:
        cls: what to read.
        source: a YAML file, or values already read.
        overrides: ``["train.seed=3", "languages=[en, fr]"]``, each value read as YAML, or a mapping of dotted keys to
            values. A number in the path indexes a list. Later ones win.

    Raises:
        NotFoundError: no such file.
        ConfigError: not YAML, an unknown setting, or a value that does not fit; names the file and field.
    """
    where = str(source) if isinstance(source, Path) else ""
    values = read_yaml(source) if isinstance(source, Path) else source
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"expected `key: value` lines, got {type(values).__name__}", where=where or None)
    tree = _copied(values)
    for path, value in _pairs(overrides):
        _set(tree, path, value)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise _config_error(cls, error, where) from error


def config_hash(config: BaseModel) -> str:
    """16 hex digits that settings with equal values share, whatever the order of their keys."""
    return sha256_json(config.model_dump(mode="json"))[:16]


def _pairs(overrides: Overrides) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    if isinstance(overrides, str):
        raise ConfigError(f"expected a list of `key=value`, got `{overrides}`")
    pairs = []
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"`{text}` is not of the form `key=value`", hint="For example `--set train.seed=3`.")
        pairs.append((path.strip(), parse_yaml(value, where=path.strip())))
    return pairs


def _copied(value: Any) -> Any:
    """A deep copy of mappings and lists, so that overrides never reach into the caller's values."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        at = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            node = node[_index(node, part, at)]
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"`{at}` is `{node}` and holds no `{last}`", where=path)
    node[_index(node, last, path) if isinstance(node, list) else last] = value


def _index(items: list[Any], part: str, where: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"`{part}` is not an index into a list of {len(items)}", where=where)
    return int(part)


def _config_error(cls: type[BaseModel], error: ValidationError, source: str) -> ConfigError:
    problems = [_problem(cls, item) for item in error.errors(include_url=False)]
    (field, message, hint), rest = problems[0], problems[1:]
    lines = [message, *(f"{other_field}: {other_message}" for other_field, other_message, _ in rest)]
    where = ": ".join(part for part in (source, field) if part)
    return ConfigError("\n".join(lines), where=where or None, hint=hint)


def _problem(cls: type[BaseModel], item: Any) -> tuple[str, str, str | None]:
    """Field path, message and hint of one pydantic error."""
    location: tuple[int | str, ...] = item["loc"]
    field = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        name = str(location[-1])
        return field, f"unknown setting `{name}`", suggest(name, _fields_at(cls, location[:-1]))
    if item["type"] == "missing":
        return field, "is required", None
    value = item["input"]
    got = f", got `{value}`" if isinstance(value, str | int | float | bool) and len(str(value)) <= 80 else ""
    return field, f"{item['msg']}{got}", None


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Names of the settings that a nested location knows; list indices and union tags are passed over."""
    models = {cls}
    for part in location:
        inner = {
            model
            for outer in models
            if (info := outer.model_fields.get(str(part))) is not None
            for model in _models_in(info.annotation)
        }
        models = inner or models
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models_in(argument)}
