"""Category labels of one taxonomy as labels of another, by the crosswalks."""

from __future__ import annotations

from dataclasses import replace

from corral.data.examples import ModerationExample
from corral.data.taxonomy import crosswalk, parse_code


def with_labels_of(row: ModerationExample, taxonomy: str) -> ModerationExample:
    """The row with its category labels in a packaged taxonomy too.

    A violated category violates the same one and a broader one there; one that is not violated rules out the same one
    only. Where several labels speak of one category, the row's own among them, a violation counts.

    Raises:
        NotFoundError: no such packaged taxonomy.
    """
    labels = dict(row.categories)
    for code, present in row.categories.items():
        for counterpart in crosswalk(code, taxonomy) if parse_code(code)[0] != taxonomy else ():
            if counterpart.relation == "exact" or (present and counterpart.relation == "broader"):
                labels[counterpart.code] = present or labels.get(counterpart.code, False)
    return row if labels == row.categories else replace(row, categories=labels)
