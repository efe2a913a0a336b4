"""Requests to measure with: harmless, self-written, of a given length, and as many as are wanted without a repeat.

Sentences come from patterns whose blanks are filled from word lists, drawn by a seeded generator, so that every machine
measures the same texts and no cache of whole requests can answer one twice.
"""

from __future__ import annotations

import random
import re
from typing import Final

from corral.core.errors import CorralError

SHORTEST_WORDS: Final = 20
LONGEST_WORDS: Final = 90
_DRAWS_EACH: Final = 20

_WORDS: Final = {
    "person": "sister|neighbour|grandfather|colleague|daughter|flatmate|teacher|cousin|landlord|uncle|team|class",
    "place": "Lisbon|Bergen|the old town|our village|Kyoto|the mountains|Tallinn|Bruges|Cork|the library|Turin",
    "thing": "bicycle|bookshelf|typewriter|record player|kayak|sewing machine|telescope|greenhouse|piano|tent|clock",
    "food": "lentil soup|sourdough|mushroom risotto|plum cake|vegetable curry|dumplings|flatbread|pancakes|stew",
    "plant": "tomatoes|a lemon tree|basil|climbing roses|ferns|courgettes|lavender|strawberries|a small oak",
    "subject": "volcanoes|the history of paper|tides|medieval bridges|bees|the metric system|glaciers|choral music",
    "number": "two|three|four|five|six|eight|nine|ten|twelve|fifteen|twenty|thirty",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|next week|the holidays|the end of May",
    "quality": "cheap|quiet|sturdy|light|simple|colourful|careful|short|friendly|thorough|old-fashioned|practical",
    "task": "a letter|a packing list|a budget|a timetable|a poem|a speech|an invitation|a summary|a quiz|a recipe",
    "tool": "a spreadsheet|a hand saw|a phone app|a notebook|a small oven|watercolours|a spirit level|a bread tin",
}
_PATTERNS: Final = (
    "I am planning a {quality} weekend in {place} with my {person} and we have {number} days for it.",
    "My {person} gave me an old {thing} and I would like to restore it before {day}.",
    "We want to cook {food} for {number} guests and one of them cannot eat anything with nuts.",
    "For a school project about {subject} I have to give a {quality} talk of {number} minutes on {day}.",
    "Could you write {task} for my {person} in a {quality} tone, in no more than {number} sentences?",
    "Last {day} I tried to grow {plant} on the balcony and after {number} weeks the leaves turned yellow.",
    "Which {quality} books about {subject} would you give to a reader who is {number} years old?",
    "The {thing} in the hall squeaks whenever my {person} walks past it, and oil did not help.",
    "Please compare {food} and {food} as a meal for {number} hungry people after a long walk in {place}.",
    "I only have {tool} and {number} hours, so the plan should be {quality} and easy to follow.",
    "How far in advance should I book a {quality} room in {place} if we arrive on {day}?",
    "Explain {subject} to my {person}, who likes {quality} examples and has never heard of it.",
    "My {person} says that {tool} is enough for the job, but I am not sure that this is true.",
    "It rained for {number} days in {place} and the path to the {thing} is now full of puddles.",
    "Make {task} that covers the costs of {plant}, {tool} and everything else we need by {day}.",
    "When is the best time to plant {plant} in {place}, and how much water do they need?",
    "There are {number} of us, and everybody should get a {quality} job while the {food} is in the oven.",
    "Is there a {quality} way to learn about {subject} with {tool} and a little patience?",
    "Translate {task} for my {person} into plain words and keep the joke about the {thing}.",
    "We moved to {place} in spring, and since {day} the {thing} has been standing in the garden.",
    "Give me {number} ideas for a party at which my {person} can show the {thing} to the children.",
    "What did people in {place} know about {subject} {number} hundred years ago?",
    "I wrote {task} on {day}, but it is too long and my {person} would like a {quality} one.",
    "Tell me which mistakes people make when they first try to make {food} with {tool}.",
)


def benign_requests(
    count: int, *, shortest: int = SHORTEST_WORDS, longest: int = LONGEST_WORDS, seed: int = 0
) -> list[str]:
    """Distinct requests of ``shortest`` to ``longest`` words, the same for the same arguments.

    The last sentence of a request may be cut short.

    Raises:
        CorralError: there are not so many of so few words.
    """
    draw = random.Random(f"benign requests {seed}")  # noqa: S311 - texts to measure with, not secrets
    words = {name: listed.split("|") for name, listed in _WORDS.items()}
    found: dict[str, None] = {}
    for _ in range(_DRAWS_EACH * count):
        found[_request(draw, words, draw.randint(shortest, longest))] = None
        if len(found) == count:
            return list(found)
    raise CorralError(f"there are not `{count}` different requests of {shortest} to {longest} words")


def _request(draw: random.Random, words: dict[str, list[str]], length: int) -> str:
    written: list[str] = []
    while len(written) < length:
        pattern = draw.choice(_PATTERNS)
        written += re.sub(r"\{(\w+)\}", lambda blank: draw.choice(words[blank[1]]), pattern).split()
    return " ".join(written[:length])
