"""Evidence as a page: every claim with what was expected, what came out, and the tables behind it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from corral.core.evidence import Claim, Evidence

_COMPARISON: Final = ("ours", "baseline", "difference", "ci95")
_STATISTIC: Final = ("value", "ci95")
_SENTENCES: Final = {"caveat": "Caveat", "in_words": "In words"}
"""Keys of a claim's figures whose value is a sentence about them, and what the page calls it."""
_MOST_STATISTICS: Final = 40
"""Of a claim, printed; a study that crosses styles, topics and judges has hundreds."""


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
        *(_claim(claim, evidence.system) for claim in evidence.claims),
    ]
    return "\n\n".join(parts) + "\n"


def _claim(claim: Claim, system: str) -> str:
    parts = [
        f"### `{claim.claim}`" + (" (toy)" if claim.toy else ""),
        f"**Measured:** {claim.metric}.",
        f"**Expected:** {claim.expected}. **{'Seen.' if claim.holds else 'Not seen.'}**",
    ]
    if claim.tried:
        parts.append("**Tried:**\n\n" + "\n".join(f"- {each}" for each in claim.tried))
    if isinstance(claim.ours, Mapping):
        parts += [f"**{label}:** {claim.ours[key]}" for key, label in _SENTENCES.items() if claim.ours.get(key)]
    whole = {"ours": claim.ours, "baseline": claim.baseline, "difference": None, "ci95": claim.ci95}
    ours = claim.ours if isinstance(claim.ours, Mapping) else whole
    if comparisons := list(_found(ours, (), _COMPARISON)):
        rows = [
            (" / ".join(path) or "the claim", *(_shown(found.get(key)) for key in (*_COMPARISON, "by_seed")))
            for path, found in comparisons
        ]
        parts.append(_table(("", "ours", "baseline", "difference", "95 % interval", "by seed"), rows))
    statistics = list(_found(ours, (), _STATISTIC))
    if len(statistics) > _MOST_STATISTICS:
        parts.append(f"{len(statistics)} more figures with their intervals are in `evidence/{system}.json`.")
    elif statistics:
        rows = [
            (" / ".join(path), *(_shown(found.get(key)) for key in (*_STATISTIC, "n"))) for path, found in statistics
        ]
        parts.append(_table(("", "value", "95 % interval", "n"), rows))
    parts += [_records(path, records) for path, records in _tables(ours, ())]
    return "\n\n".join(parts)


def _found(
    value: Any, path: tuple[str, ...], keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping within a value that has all the keys, with the keys that lead to it."""
    if isinstance(value, Mapping):
        if all(key in value for key in keys):
            yield path, value
        for key, inner in value.items():
            yield from _found(inner, (*path, key.replace("_", " ")), keys)


def _tables(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Sequence[Mapping[str, Any]]]]:
    """Every list of records within a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tables(inner, (*path, key.replace("_", " ")))
    elif isinstance(value, Sequence) and value and all(isinstance(each, Mapping) for each in value):
        yield path, value


def _records(path: tuple[str, ...], records: Sequence[Mapping[str, Any]]) -> str:
    flat = [dict(_flat(record, "")) for record in records]
    named = dict.fromkeys(name for record in flat for name in record)
    columns = [name for name in named if any(_shown(record.get(name)) for record in flat)]
    rows = [tuple(_shown(record.get(column)) for column in columns) for record in flat]
    return f"**{' / '.join(path)}**\n\n" + _table([column.replace("_", " ") for column in columns], rows)


def _flat(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The values of a record by the keys that lead to them; a comparison or statistic within it is one of them."""
    for key, value in record.items():
        if not isinstance(value, Mapping):
            yield f"{prefix}{key}", value
        elif all(each in value for each in _COMPARISON):
            yield f"{prefix}{key} (difference)", _compared(value)
        elif all(each in value for each in _STATISTIC):
            yield f"{prefix}{key}", _stated(value)
        else:
            yield from _flat(value, f"{prefix}{key}: ")


def _compared(comparison: Mapping[str, Any]) -> str:
    """What there is and by how much it differs, with the interval."""
    ours, difference, interval = (_shown(comparison[key]) for key in ("ours", "difference", "ci95"))
    return f"{ours} ({difference}{f' [{interval}]' if interval else ''})"


def _stated(statistic: Mapping[str, Any]) -> str:
    """A value with its interval and the number that it is over."""
    value, interval, n = (_shown(statistic.get(key)) for key in (*_STATISTIC, "n"))
    return f"{value}{f' [{interval}]' if interval else ''}{f', n {n}' if value and n else ''}"


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
