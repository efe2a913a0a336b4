"""Write ``docs/reference`` from the code (the command line from each ``--help``, the Python API from its docstrings),
``docs/systems`` from each system's card and evidence, ``docs/concepts/guards_compared.md`` from evidence and published
tables, and the table of all systems in ``docs/README.md``.

``make docs`` runs this; a test fails when the committed pages differ. With ``--check`` nothing is written and the exit
code says whether they do.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

import corral
from corral.cli.main import VERBS, main
from corral.core.evidence_page import evidence_page
from corral.core.recipes import Evidence, list_recipes
from corral.evals.guards_compared import guards_page

REFERENCE = Path(__file__).parent / "reference"
SYSTEMS = Path(__file__).parent / "systems"
COMPARED = Path(__file__).parent / "concepts" / "guards_compared.md"
INDEX = Path(__file__).parent / "README.md"
EVIDENCE = Path(__file__).parent.parent / "evidence"
_NOTE = "<!-- Written by docs/build_reference.py; change the code and run `make docs`. -->\n\n"
_WIDTH = 100
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):$")

PUBLISHED = {
    "syne": "Llama-3-SynE: continual pre-training with synthetic data",
    "stability_gap": "Stability gap: continual pre-training without the dip",
    "control_llm": "Control LLM: new abilities beside frozen layers",
    "chocollama": "ChocoLlama: a new language, its vocabulary with it",
    "instruct_skillmix": "Instruct-SkillMix: instructions from combined skills",
    "derta": "DeRTa: refusal at any place of an answer",
    "egida": "Egida: preference tuning against jailbreaks",
    "mogu": "MoGU: routing between a glad and a wary model",
    "llama_rl": "LlamaRL: asynchronous reinforcement learning",
    "swe_rl": "SWE-RL: reinforcement learning on software changes",
    "auto_rule": "AutoRule: rewards from extracted rules",
    "low_bit_study": "Low-bit study: what quantisation costs",
    "llama_guard": "Llama Guard: a policy in words, judged by a language model",
    "wildguard": "WildGuard: harm of prompt and reply, and refusal",
    "duoguard": "DuoGuard: a small classifier in several languages",
    "cultureguard": "CultureGuard: one JSON verdict in any language",
    "latent_guard": "Latent Guard: harm as the guarded model itself sees it",
    "content_moderation": "Content moderation of text, images and video",
    "whisper_inject": "WhisperInject: attacks hidden in audio",
}
"""The nineteen published systems that Corral is built for, in the order in which they touch a model."""
OWN = {
    "default_guard": "The default guard",
    "aligned_smollm2": "Aligned SmolLM2",
    "redteam_styles": "Attack styles and judges",
    "defences": "Defences side by side",
}
"""What is our own, or gathered from many papers."""
_BEGIN, _END = "<!-- systems: written by docs/build_reference.py -->\n", "<!-- end of systems -->\n"


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    reference = {REFERENCE / "cli.md": _NOTE + _command_line(), REFERENCE / "python.md": _NOTE + _python()}
    systems = {SYSTEMS / f"{name}.md": _NOTE + system_page(name) for name in list_recipes()}
    compared = {COMPARED: _NOTE + guards_page(map(Evidence.read, sorted(EVIDENCE.glob("*.json"))))}
    return reference | systems | compared | {INDEX: with_systems(INDEX.read_text(encoding="utf-8"), systems_table())}


def with_systems(index: str, table: str) -> str:
    """The index of the documentation with this table between its marks."""
    before, _, rest = index.partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise SystemExit(f"{INDEX} lacks the marks that the table of systems stands between")
    return f"{before}{_BEGIN}\n{table}\n{_END}{after}"


def systems_table(evidence: Path = EVIDENCE) -> str:
    """Every system, and which of its claims the published evidence shows to hold."""
    lines = ["| system | claims that hold | that do not |", "| --- | --- | --- |"]
    for name, title in {**PUBLISHED, **OWN}.items():
        shown = f"[{title}](systems/{name}.md)" if name in list_recipes() else title
        lines.append(f"| {shown} | {_state(name, evidence)} |")
    return "\n".join(lines) + "\n"


def _state(name: str, evidence: Path) -> str:
    """The last two cells of a system."""
    if name not in list_recipes():
        return "not built yet | "
    file = evidence / f"{name}.json"
    if not file.exists():
        return "built, no evidence yet | "
    claims = Evidence.read(file).claims
    cells = (", ".join(f"`{each.claim}`" for each in claims if each.holds is holds) for holds in (True, False))
    return " | ".join(cells)


def system_page(name: str, evidence: Path = EVIDENCE) -> str:
    """The card of a system, its profiles, and what its evidence shows."""
    card = (resources.files("corral") / "recipes" / name / "card.md").read_text(encoding="utf-8").rstrip()
    profiles = ", ".join(f"`{name}/{profile}`" for profile in list_recipes()[name])
    file = evidence / f"{name}.json"
    shown = evidence_page(Evidence.read(file)) if file.exists() else "## Evidence\n\nNone has been published.\n"
    return f"{card}\n\n## Profiles\n\n{profiles}; `corral recipes show {name}/small` prints the settings.\n\n{shown}"


def _command_line() -> str:
    parts = ["# Command line", *_help_of([])]
    for verb in VERBS:
        parts += [f"## `corral {verb}`", *_help_of([verb])]
        for words in _subcommands(verb):
            parts += [f"### `corral {' '.join(words)}`", *_help_of(words)]
    return "\n\n".join(parts) + "\n"


def _subcommands(verb: str) -> Iterator[list[str]]:
    """The words of every command below a verb, a group before its commands."""
    from typer.main import get_command

    def below(command: Any, words: list[str]) -> Iterator[list[str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield [*words, name]
            yield from below(inner, [*words, name])

    return below(get_command(VERBS[verb].load()), [verb])


def _help_of(command: list[str]) -> Iterator[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*command, "--help"])
    if code != 0:
        raise SystemExit(f"`corral {' '.join(command)} --help` exited with {code}")
    text = "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
    yield f"```text\n$ corral {' '.join([*command, '--help'])}\n{text}\n```"


def _python() -> str:
    intro = "# Python\n\nWhat `import corral` offers. Everything else is internal and may change between releases."
    names = sorted(corral.__all__, key=str.lower)
    return "\n\n".join([intro, *(_entry(name, getattr(corral, name)) for name in names)]) + "\n"


def _entry(name: str, thing: Any) -> str:
    parts = [f"## `{name}`", _code(_declaration(name, thing)), _markdown(inspect.getdoc(thing) or "")]
    if inspect.isclass(thing):
        parts += [_member(name, member, value) for member, value in vars(thing).items() if _is_public(member, value)]
    return "\n\n".join(part for part in parts if part)


def _declaration(name: str, thing: Any) -> str:
    if not inspect.isclass(thing):
        return f"{name}{_signature(thing)}"
    if issubclass(thing, Enum):
        members = "\n".join(f"    {member.name} = {json.dumps(member.value)}" for member in thing)
        return f"class {name}({thing.__mro__[1].__name__}):\n{members}"
    if issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False):
        return f"class {name}({thing.__mro__[1].__name__})"
    return f"class {name}{_signature(thing)}".removesuffix(" -> None")


def _is_public(name: str, value: object) -> bool:
    plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    # A function without a docstring is generated, or pydantic's own hook.
    return (
        not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)) and bool(plain.__doc__)
    )


def _member(owner: str, name: str, value: Any) -> str:
    if isinstance(value, property):
        returned = value.fget.__annotations__.get("return", "")
        declaration, documented = f"{name}: {returned}", value.fget
    else:
        documented = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        declaration = f"{name}{_signature(documented)}"
    return "\n\n".join([f"### `{owner}.{name}`", _code(declaration), _markdown(inspect.getdoc(documented) or "")])


def _signature(thing: Any) -> str:
    """Parameters and result as written; one parameter a line where they do not fit on one."""
    signature = inspect.signature(thing)
    parameters = [p for p in signature.parameters.values() if p.name not in {"self", "cls"}]
    one_line = str(signature.replace(parameters=parameters))
    if len(one_line) <= _WIDTH:
        return _unquoted(one_line)
    lines = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        lines.append(str(parameter))
    result = str(signature.replace(parameters=()))[2:]
    return _unquoted("(\n" + "".join(f"    {line},\n" for line in lines) + f"){result}")


def _unquoted(signature: str) -> str:
    """Annotations that are kept as text, without the quotes; defaults without their address in memory."""
    signature = re.sub(r"""(: |-> )(?:'([^']*)'|"([^"]*)")""", lambda m: m[1] + (m[2] or m[3] or ""), signature)
    return re.sub(r"<([\w.]+)[^<>]* at 0x[0-9a-f]+>", r"<\1>", signature)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _markdown(docstring: str) -> str:
    """Google-style sections as bold words, their entries as bullets, literal blocks as code."""
    lines: list[str] = []
    in_section = False
    for line in docstring.replace("``", "`").splitlines():
        if _SECTION.match(line):
            lines += [f"**{line}**", ""]
            in_section = True
        elif in_section and re.match(r" {4}\S", line):
            lines.append(f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines).strip()


def _out_of_date() -> list[Path]:
    return [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"  # the help texts wrap to the terminal
    stale = _out_of_date()
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date, run `make docs`: {', '.join(p.name for p in stale)}" if stale else 0)
    for page, content in pages().items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(content, encoding="utf-8")
