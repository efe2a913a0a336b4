"""Evidence as a page: every claim with what was expected, what came out, and the tables behind it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from corral.core.evidence import Claim, Evidence

_COMPARISON: Final = ("ours", "baseline", "difference", "ci95")


def evidence_page(evidence: Evidence) -> str:
    """The claims of a system as Markdown, headings of the second and third level."""
    machine = evidence.machine
    where = f"{machine.processor}, {machine.cpus} CPU(s), {machine.accelerator or 'no accelerator'}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(evidence.versions.items()))
    parts = [
        "## Evidence",
        f"```bash\n{evidence.command}\n```",
        f"{evidence.date.isoformat()}, on {where}; {versions}.",
        _table(
            ("claim", "holds", "95 % interval", "n", "seeds", "toy"),
            [
                (
                    f"`{claim.claim}`",
                    "yes" if claim.holds else "**no**",
                    _shown(claim.ci95),
                    claim.n,
                    _shown(claim.seeds),
                    "toy" if claim.toy else "",
                )
                for claim in evidence.claims
            ],
        ),
        *(_claim(claim) for claim in evidence.claims),
    ]
    return "\n\n".join(parts) + "\n"


def _claim(claim: Claim) -> str:
    parts = [
        f"### `{claim.claim}`" + (" (toy)" if claim.toy else ""),
        f"**Measured:** {claim.metric}.",
        f"**Expected:** {claim.expected}. **{'Seen.' if claim.holds else 'Not seen.'}**",
    ]
    if claim.tried:
        parts.append("**Tried:**\n\n" + "\n".join(f"- {each}" for each in claim.tried))
    whole = {"ours": claim.ours, "baseline": claim.baseline, "difference": None, "ci95": claim.ci95}
    ours = claim.ours if isinstance(claim.ours, Mapping) else whole
    comparisons = [(path, found) for path, found in _comparisons(ours, ()) if found is not None]
    if comparisons:
        rows = [
            (" / ".join(path) or "the claim", *(_shown(found.get(key)) for key in (*_COMPARISON, "by_seed")))
            for path, found in comparisons
        ]
        parts.append(_table(("", "ours", "baseline", "difference", "95 % interval", "by seed"), rows))
    parts += [_records(path, records) for path, records in _tables(ours, ())]
    return "\n\n".join(parts)


def _comparisons(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every comparison of two systems within a value, with the keys that lead to it."""
    if isinstance(value, Mapping):
        if all(key in value for key in _COMPARISON):
            yield path, value
        for key, inner in value.items():
            yield from _comparisons(inner, (*path, key.replace("_", " ")))


def _tables(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Sequence[Mapping[str, Any]]]]:
    """Every list of records within a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tables(inner, (*path, key.replace("_", " ")))
    elif isinstance(value, Sequence) and value and all(isinstance(each, Mapping) for each in value):
        yield path, value


def _records(path: tuple[str, ...], records: Sequence[Mapping[str, Any]]) -> str:
    flat = [dict(_flat(record, "")) for record in records]
    columns = list(dict.fromkeys(name for record in flat for name in record))
    rows = [tuple(_shown(record.get(column)) for column in columns) for record in flat]
    return f"**{' / '.join(path)}**\n\n" + _table([column.replace("_", " ") for column in columns], rows)


def _flat(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", value


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _shown(value: Any) -> str:
    """A value in a cell: numbers with three decimals, intervals and lists in brackets."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(each) for each in value)
    return str(value)
