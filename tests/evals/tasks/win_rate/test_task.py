"""The win rate takes both orders, keeps what cannot be read apart, and takes length out. Every model is scripted."""

from __future__ import annotations

import pytest

from corral.core.errors import ConfigError, DataError
from corral.evals.tasks.task import Subject
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt, packaged_prompts, user_prompts
from corral.evals.tasks.win_rate.task import WinRate
from corral.models.engines.scripted import ScriptedEngine

PROMPTS = tuple(ComparisonPrompt(str(i), f"Request {i}", reference=f"plain {i}") for i in range(8))


def model(answer: str, name: str = "ours") -> Subject:
    return Subject(ScriptedEngine(lambda _: answer, name=name), name, "1")


def judge(decide) -> Subject:
    """A judge whose reply is a function of the two answers in their order."""

    def reply(prompt):
        text = prompt.messages[-1].text
        first = text.split("[Answer A]\n")[1].split("\n[End of answer A]")[0]
        second = text.split("[Answer B]\n")[1].split("\n[End of answer B]")[0]
        return decide(first, second)

    return Subject(ScriptedEngine(reply, name="judge"), "judge", "7")


def fair(first: str, second: str) -> str:
    """Prefers the answer with a star; else a tie."""
    return "[[C]]" if ("*" in first) == ("*" in second) else "[[A]]" if "*" in first else "[[B]]"


def values_of(result) -> dict[str, float | None]:
    return {name: figure.value for name, figure in result.figures.items()}


def test_the_better_answer_wins_in_either_place(cache, progress):
    result = WinRate(judge(fair), prompts=PROMPTS).run(model("*short"), cache, progress)
    found = values_of(result)
    assert found["win_rate"] == 1.0
    assert found["win_rate_length_controlled"] == pytest.approx(1.0, abs=1e-6)
    assert found["order_agreement"] == 1.0
    assert found["first_position"] == 0.5
    assert result.judge_revision == "judge@7/1"
    assert progress.total == progress.done == 3 * len(PROMPTS)


def test_a_judge_that_likes_the_first_answer_gives_ties(cache, progress):
    found = values_of(WinRate(judge(lambda *_: "[[A]]"), prompts=PROMPTS).run(model("x"), cache, progress))
    assert found["win_rate"] == 0.5
    assert found["ties"] == 1.0
    assert found["order_agreement"] == 0.0
    assert found["first_position"] == 1.0


def test_what_cannot_be_read_is_nobodys_win(cache, progress):
    def mumbles(first, second):
        return "both are good" if "plain 0" in (first, second) else fair(first, second)

    result = WinRate(judge(mumbles), prompts=PROMPTS).run(model("*"), cache, progress)
    figure = result.figures["win_rate"]
    assert (figure.value, figure.n, figure.unscored) == (1.0, 7, 1)
    assert values_of(result)["unparseable"] == pytest.approx(1 / 8)
    assert result.samples[0].values["win"] is None


def test_one_readable_order_is_not_enough(cache, progress):
    def half(first, second):
        return fair(first, second) if "*" in first else "?"

    result = WinRate(judge(half), prompts=PROMPTS).run(model("*"), cache, progress)
    assert result.figures["win_rate"].value is None
    assert values_of(result)["unparseable"] == 0.5


def test_length_control_takes_a_taste_for_length_out(cache, progress):
    lengths = [10, 20, 30, 40, 60, 80, 100, 120] * 5
    prompts = tuple(ComparisonPrompt(str(i), f"Request {i}", reference="r" * 50) for i in range(len(lengths)))
    long_or_short = Subject(
        ScriptedEngine(lambda prompt: "o" * lengths[int(prompt.messages[-1].text.split()[1])]), "ours", "1"
    )

    def longer(first, second):
        return "[[A]]" if len(first) > len(second) else "[[B]]"

    # Longer in 20 of 40, so the plain rate is even; with references that are shorter than most answers it is not.
    found = values_of(WinRate(judge(longer), prompts=prompts).run(long_or_short, cache, progress))
    assert found["win_rate"] == 0.5
    shorter = tuple(ComparisonPrompt(p.id, p.text, reference="r" * 25) for p in prompts)
    found = values_of(WinRate(judge(longer), prompts=shorter).run(long_or_short, cache, progress))
    assert found["win_rate"] == 0.75
    assert abs(found["win_rate_length_controlled"] - 0.5) < abs(0.75 - 0.5)


def test_a_rival_model_answers_too_and_answers_are_kept(cache, progress):
    asked = []

    def counting(prompt):
        asked.append(prompt)
        return "*ours"

    ours = Subject(ScriptedEngine(counting, name="ours"), "ours", "1")
    task = WinRate(
        judge(fair),
        rival=Subject(ScriptedEngine(lambda _: "theirs", name="rival"), "rival", "2"),
        prompts=PROMPTS,
        limit=3,
    )
    first = task.run(ours, cache, progress)
    again = task.run(ours, cache, progress)
    assert len(asked) == 3
    assert first.figures == again.figures
    assert first.figures["win_rate"].value == 1.0
    assert "`rival`" in first.caveats[0]


def test_answers_too_long_for_the_judge_are_counted_as_unread(cache, progress):
    class ShortJudge(ScriptedEngine):
        def generate(self, prompts, settings):
            if any("huge" in prompt.messages[-1].text for prompt in prompts):
                raise DataError("does not fit")
            return super().generate(prompts, settings)

    prompts = (*PROMPTS[:3], ComparisonPrompt("huge", "A huge request", reference="r"))
    short = Subject(ShortJudge(lambda _: "[[C]]"), "judge", "1")
    result = WinRate(short, prompts=prompts).run(model("x"), cache, progress)
    assert [sample.values["win"] for sample in result.samples] == [0.5, 0.5, 0.5, None]


def test_the_data_hash_holds_the_answers_to_beat(cache, progress):
    changed = (*PROMPTS[:-1], ComparisonPrompt("7", "Request 7", reference="other"))
    hashes = {WinRate(judge(fair), prompts=p).run(model("x"), cache, progress).data_hash for p in (PROMPTS, changed)}
    assert len(hashes) == 2


def test_settings_that_cannot_be_met_are_refused():
    with pytest.raises(ConfigError, match="no reference"):
        WinRate(judge(fair))
    with pytest.raises(ConfigError, match="different ids"):
        WinRate(judge(fair), prompts=(PROMPTS[0], PROMPTS[0]))
    with pytest.raises(ConfigError, match="below 1"):
        WinRate(judge(fair), prompts=PROMPTS, limit=0)


def test_prompts_come_from_the_package_or_a_file(tmp_path):
    assert len(packaged_prompts()) == 40
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "a", "prompt": "Hi", "reference": "Hello"}\n{"prompt": "Bye"}\n', encoding="utf-8")
    assert user_prompts(path) == (ComparisonPrompt("a", "Hi", "Hello"), ComparisonPrompt("1", "Bye"))
    path.write_text('{"prompt": "Hi", "reference": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="reference"):
        user_prompts(path)


def test_a_judge_too_small_to_write_a_verdict_is_asked_by_likelihood(cache, progress):
    def likes(prompt, completion):
        first = prompt.messages[-1].text.split("[Answer A]\n")[1].split("\n[End of answer A]")[0]
        return 0.0 if completion.endswith("A" if "*" in first else "B") else -5.0

    small = Subject(ScriptedEngine(lambda _: "no mark", logprob=likes, name="judge"), "judge", "7")
    found = WinRate(small, prompts=PROMPTS, by="likelihood").run(model("*"), cache, progress)
    assert values_of(found)["win_rate"] == 1.0
    assert found.judge_revision == "judge@7/1/likelihood"
    assert values_of(WinRate(small, prompts=PROMPTS).run(model("*"), cache, progress))["unparseable"] == 1.0


def test_identical_answers_are_a_tie_that_no_judge_is_asked_about(cache, progress):
    """A judge that follows the order would add its noise to both."""
    asked = []

    def first_wins(first, second):
        asked.append((first, second))
        return "[[A]]"

    same = [ComparisonPrompt(f"s{i}", f"Same {i}", reference="*") for i in range(3)]
    result = WinRate(judge(first_wins), prompts=(*PROMPTS, *same)).run(model("*"), cache, progress)
    assert len(asked) == 2 * len(PROMPTS)
    assert progress.done == progress.total
    assert result.samples[-1].values == {"win": 0.5, "tie": 1.0, "identical": 1.0, "length_difference": 0.0}
    assert values_of(result)["identical"] == pytest.approx(3 / 11)
    assert result.figures["win_rate"].n == 11
    assert result.figures["order_agreement"].n == result.figures["first_position"].n == 8


def test_where_all_answers_are_identical_nothing_is_said_of_the_judge(cache, progress):
    same = [ComparisonPrompt(str(i), f"Same {i}", reference="*") for i in range(3)]
    silent = judge(lambda *_: pytest.fail("asked"))
    found = values_of(WinRate(silent, prompts=tuple(same)).run(model("*"), cache, progress))
    assert (found["win_rate"], found["ties"], found["order_agreement"]) == (0.5, 1.0, None)
