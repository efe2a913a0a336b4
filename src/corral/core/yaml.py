"""YAML without surprises: the safe subset that configs, policies, taxonomies and recipes are written in.

PyYAML reads YAML 1.1, where ``no`` is false (the language code of Norwegian), ``1e-4`` is text, ``12:30`` is 750 and a
key given twice silently keeps the last value. Here scalars follow the core schema of YAML 1.2 (section 10.3.2), a
repeated key is an error, and aliases are refused: they are seldom used in such files and let a small one expand
without bound. Only plain values come out; no tag can construct anything else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from corral.core.errors import ConfigError, NotFoundError

_SCALARS: Final[tuple[tuple[str, str, str], ...]] = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  replaces PyYAML's, as its own classes do

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"alias `*{event.anchor}` is not read; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key `{key.value}` is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # PyYAML's own reads a leading zero as octal


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds these line breaks into blanks except between double quotes, where it writes escapes
    style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
for _tag, _pattern, _first in _SCALARS:
    # PyYAML looks resolvers up by first character; "" stands for the empty scalar
    _characters = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _characters)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _characters)


def parse_yaml(text: str, *, where: str = "yaml") -> Any:
    """The value of one YAML document; ``None`` for an empty one.

    Raises:
        ConfigError: not YAML, a repeated key, an alias, or a tag that is not a plain value; names ``where`` and line.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"cannot be read as YAML: {error.problem}", where=f"{where}{line}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read as YAML: {error}", where=where) from error


def read_yaml(path: Path | str) -> Any:
    """The value of a YAML file in UTF-8.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: as ``parse_yaml``, or not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}", where=str(path)) from error
    return parse_yaml(text, where=str(path))


def dump_yaml(value: Any) -> str:
    """Text that ``parse_yaml`` reads back as an equal value; keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
