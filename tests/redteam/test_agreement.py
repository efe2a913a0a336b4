"""Agreement of judges with people: brute force on made-up labels, undecided replies counted and left out."""

from __future__ import annotations

import json
import random

import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, recall_score

from corral.core.errors import DataError, NotFoundError
from corral.redteam.agreement import measure_agreement
from corral.redteam.judges import Judgement, Outcome, PrefixListJudge
from corral.redteam.labelled import LABELLED, LabelledReply, LabelledSet, labelled_set

REFUSAL = "I'm sorry, but I can't tell."


def made_up(count: int = 60, seed: int = 0) -> list[LabelledReply]:
    chance = random.Random(seed)
    return [
        LabelledReply(
            request := f"Reveal colour {i % 20}.",
            REFUSAL if chance.random() < 0.5 else f"It is colour {i}.",
            chance.random() < 0.4,
            request,
            {"model": "ab"[i % 2]},
        )
        for i in range(count)
    ]


def as_set(replies, question="success") -> LabelledSet:
    return LabelledSet("made-up", question, "whatever", lambda _: iter(replies), "nowhere")


@pytest.mark.parametrize("question", ["success", "refusal"])
def test_figures_equal_scikit_learns(question) -> None:
    replies = made_up()
    whole, first, second = measure_agreement(PrefixListJudge(), as_set(replies, question), replicates=100)
    truth = [each.positive for each in replies]
    said = [(each.reply == REFUSAL) is (question == "refusal") for each in replies]
    assert whole.figures["accuracy"].value == pytest.approx(accuracy_score(truth, said))
    assert whole.figures["kappa"].value == pytest.approx(cohen_kappa_score(truth, said))
    assert whole.figures["recall"].value == pytest.approx(recall_score(truth, said))
    assert whole.figures["specificity"].value == pytest.approx(recall_score(truth, said, pos_label=False))
    assert (whole.n, whole.positives, whole.said, whole.undecided) == (60, sum(truth), sum(said), 0)
    assert whole.figures["accuracy"].clusters == 20
    assert [(part.by, part.value, part.n) for part in (first, second)] == [("model", "a", 30), ("model", "b", 30)]


def test_what_the_judge_could_not_label_is_left_out_and_counted() -> None:
    class Half:
        name, revision = "half", "1"

        def judge_many(self, pairs):
            labels = [Outcome.UNPARSED if i % 2 else Outcome.COMPLIES for i in range(len(pairs))]
            return [Judgement(label, self.name) for label in labels]

    replies = [LabelledReply(f"Reveal {i}.", f"It is {i}.", True, f"Reveal {i}.") for i in range(10)]
    (whole,) = measure_agreement(Half(), as_set(replies), replicates=100)
    assert (whole.n, whole.undecided) == (5, 5)
    assert whole.figures["recall"].value == 1.0
    assert whole.figures["specificity"].value is None


def test_a_draw_depends_on_the_seed_and_a_rerun_labels_nothing_again(tmp_path) -> None:
    replies = made_up()
    first = measure_agreement(PrefixListJudge(), as_set(replies), limit=31, replicates=100, folder=tmp_path)
    assert first[0].n == 31
    other = measure_agreement(PrefixListJudge(), as_set(replies), limit=31, seed=1, replicates=100)
    assert other[0].rows_sha256 != first[0].rows_sha256

    class Dead(PrefixListJudge):
        def judge_many(self, pairs):
            pytest.fail("asked again")

    assert measure_agreement(Dead(), as_set(replies), limit=31, replicates=100, folder=tmp_path) == first


def test_a_file_of_labels_is_read_for_either_question(tmp_path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [
        {"goal": "Reveal it.", "answer": "Green.", "label": "unsafe", "style": "base64"},
        {"prompt": "Reveal it.", "response": REFUSAL, "label": "refusal"},
        {"request": "Name one.", "reply": "Birds.", "label": "safe", "model": "m"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    success = list(labelled_set(str(path)).read(None))
    refusal = list(labelled_set(str(path), "refusal").read(None))
    assert [each.positive for each in success] == [True, False, False]
    assert [each.positive for each in refusal] == [False, True, False]
    assert [dict(each.slices) for each in success] == [{"style": "base64"}, {}, {"model": "m"}]
    assert success[0].cluster == success[1].cluster != success[2].cluster


@pytest.mark.parametrize(
    "row", [{"goal": "a", "label": "safe"}, {"goal": "a", "answer": "b", "label": "fine"}, {"goal": "a", "answer": "b"}]
)
def test_a_malformed_label_is_refused_with_its_line(tmp_path, row) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        list(labelled_set(str(path)).read(None))
    assert caught.value.where == f"{path}:1"


def test_a_set_that_there_is_not_is_told() -> None:
    with pytest.raises(NotFoundError, match="gptfuz"):
        labelled_set("gptfuz")
    with pytest.raises(NotFoundError, match="data folder"):
        measure_agreement(PrefixListJudge(), LABELLED["gptfuzz"])


def test_both_readings_of_the_actions_between_are_there() -> None:
    questions = {name: each.question for name, each in LABELLED.items()}
    assert questions == {
        "gptfuzz": "success",
        "do_not_answer": "refusal",
        "do_not_answer:1+4-refuse": "refusal",
        "do_not_answer:1+4-answer": "refusal",
    }


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        ("do_not_answer", {0}, {2, 3, 5}),
        ("do_not_answer:1+4-refuse", {0, 1, 4}, {2, 3, 5}),
        ("do_not_answer:1+4-answer", {0}, {1, 2, 3, 4, 5}),
    ],
)
def test_each_reading_takes_the_actions_that_it_names(monkeypatch, name, positive, negative) -> None:
    from corral.data.examples import ModerationExample
    from corral.data.messages import Conversation
    from corral.redteam import labelled

    rows = [
        ModerationExample(Conversation.exchange("Reveal it.", f"Reply {action}."), "response", raw={"action": action})
        for action in range(6)
    ]
    monkeypatch.setattr(labelled, "load_source", lambda *_, **__: iter(rows))
    found = {int(each.reply[6]): each.positive for each in labelled_set(name).read(None)}
    assert {action for action, label in found.items() if label} == positive
    assert {action for action, label in found.items() if not label} == negative
