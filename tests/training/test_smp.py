"""The schedule: ranking, phases, boundaries (properties 7 and 14 of the method's notes)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import SMPSettings
from g2d_pipeline.training.smp import SMP, phase_of, rank


def schedule(
    confidence: list[list[float]], epochs: int = 6, val: tuple[float, ...] = (), **settings: object
) -> SMP:
    rows = torch.arange(len(confidence[0]))
    names = ["a", "b", "c"][: len(confidence)]
    return SMP(
        SMPSettings(**settings), names, epochs, torch.tensor(confidence), val or (0.0,) * len(names), rows
    )  # type: ignore[arg-type]


def test_ranking_is_ascending_and_ties_keep_the_configured_order() -> None:
    assert rank([0.9, 0.1, 0.5]) == [1, 2, 0]
    assert rank([0.5, 0.5, 0.1, 0.5]) == [2, 0, 1, 3]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.randoms())
def test_permuting_the_modalities_permutes_the_ranking(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    distinct = list(dict.fromkeys(values))
    order = list(range(len(distinct)))
    random.shuffle(order)
    assert [order[p] for p in rank([distinct[o] for o in order])] == rank(distinct)


def test_three_modalities_visit_each_phase_at_the_right_epochs() -> None:
    smp = schedule([[0.9], [0.1], [0.5]], epochs=7, tau=[2, 1, 4])
    seen = []
    for epoch in range(1, 8):
        smp.start_epoch(epoch)
        seen.append(smp.active(smp.confidence[:, [0]]))
    everyone = ("a", "b", "c")
    assert seen == [("b",), ("b",), ("c",), everyone, everyone, everyone, everyone]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 10))
def test_phases_take_tau_epochs_each_and_fill_the_run(alone: list[int], rest: int) -> None:
    epochs = sum(alone) + rest
    if epochs == 0:
        return
    phases = SMPSettings(tau=alone).phases(len(alone) + 1, epochs)
    visited = [phase_of(epoch, phases) for epoch in range(1, epochs + 1)]
    assert [visited.count(j) for j in range(1, len(phases) + 1)] == [*alone, rest]
    assert visited == sorted(visited)


def test_half_is_the_published_idea() -> None:
    assert SMPSettings().phases(2, 300) == [150, 150]
    assert SMPSettings().phases(3, 300) == [75, 75, 150]
    assert sum(SMPSettings().phases(3, 7)) == 7


@pytest.mark.parametrize(
    ("tau", "message"), [([1, 2, 3, 4], "4 values; 3 modalities need 3"), ([5, 6], "take 11 epochs of 8")]
)
def test_tau_that_does_not_fit_is_refused(tau: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMPSettings(tau=tau).phases(3, 8)


def test_one_modality_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="two modalities"):
        SMPSettings().phases(1, 8)


def test_batch_ranking_follows_the_batch_and_dataset_ranking_does_not() -> None:
    confidence = [[0.9, 0.1, 0.9], [0.5, 0.5, 0.5]]
    batch, whole = schedule(confidence, tau=[3]), schedule(confidence, tau=[3], ranking="dataset")
    for smp in (batch, whole):
        smp.start_epoch(1)
    assert [batch.active(batch.confidence[:, [i]]) for i in range(3)] == [("b",), ("a",), ("b",)]
    assert [whole.active() for i in range(3)] == [("b",)] * 3
    assert (batch.needs_batch_confidence, whole.needs_batch_confidence) == (True, False)


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=2, max_size=3))
def test_batch_ranking_equals_dataset_ranking_when_one_batch_holds_all(confidence: list[list[float]]) -> None:
    batch, whole = schedule(confidence), schedule(confidence, ranking="dataset")
    for smp in (batch, whole):
        smp.start_epoch(1)
    assert batch.active(batch.confidence) == whole.active(whole.confidence)


def test_epoch_ranking_uses_the_epoch_before() -> None:
    smp = schedule([[0.1, 0.9], [0.5, 0.5]], tau=[4], ranking="epoch")
    smp.start_epoch(1)
    assert smp.active(smp.confidence[:, [1]]) == ("a",)  # the whole set ties at 0.5: the configured order
    smp.start_epoch(2)
    assert smp.active(smp.confidence[:, [0]]) == (
        "b",
    )  # in epoch 1 only sample 1 was met, where a is confident
    smp.start_epoch(3)
    assert smp.active(smp.confidence[:, [0]]) == ("a",)


def test_held_out_confidence_ranks_once_and_can_disagree() -> None:
    smp = schedule([[0.9, 0.9], [0.5, 0.5]], val=(0.2, 0.4), tau=[3], confidence_on="val")
    smp.start_epoch(1)
    assert smp.active() == ("a",)


def test_a_batch_ranking_without_confidences_is_refused() -> None:
    smp = schedule([[0.1], [0.5]])
    smp.start_epoch(1)
    with pytest.raises(ValueError, match="needs the teachers' confidences"):
        smp.active()


def frozen(smp: SMP, batches: list[list[int]]) -> set[str]:
    return smp.frozen([np.array(b) for b in batches])


def test_an_encoder_is_frozen_where_no_batch_of_the_epoch_lets_it_learn() -> None:
    confidence = [[0.1, 0.9], [0.5, 0.5], [0.6, 0.6]]
    smp = schedule(confidence, tau=[3, 1])
    smp.start_epoch(1)
    assert frozen(smp, [[0], [0]]) == {"b", "c"}  # in both batches a is the least confident
    assert frozen(smp, [[0], [1]]) == {"c"}  # a learns from the first, b from the second
    fixed = schedule(confidence, tau=[3, 1], ranking="dataset")
    fixed.start_epoch(1)
    assert frozen(fixed, [[0], [1]]) == {"b", "c"}
    for of in (smp, fixed):
        of.start_epoch(6)
        assert frozen(of, [[0], [1]]) == set()  # the last phase


def test_where_batches_are_augmented_those_are_frozen_that_did_not_learn_in_the_epoch_before() -> None:
    smp = SMP(
        SMPSettings(tau=[4]),
        "ab",
        6,
        torch.tensor([[0.1], [0.5]]),
        (0.0, 0.0),
        torch.tensor([0]),
        known=False,
    )
    smp.start_epoch(1)
    assert frozen(smp, [[0]]) == set()  # nobody knows yet
    assert smp.active(torch.tensor([[0.1], [0.5]])) == ("a",)
    smp.start_epoch(2)
    assert frozen(smp, [[0]]) == {"b"}
    assert smp.active(torch.tensor([[0.9], [0.5]])) == (
        "b",
    )  # the guess was wrong: the trainer reads its input then
    smp.start_epoch(3)
    assert frozen(smp, [[0]]) == {"a"}


def test_the_schedule_survives_a_checkpoint() -> None:
    smp = schedule([[0.1, 0.9], [0.5, 0.5]], tau=[4], ranking="epoch")
    smp.start_epoch(1)
    smp.active(smp.confidence[:, [1]])
    other = schedule([[0.1, 0.9], [0.5, 0.5]], tau=[4], ranking="epoch")
    other.load_state_dict(smp.state_dict())
    for of in (smp, other):
        of.start_epoch(2)
    assert other.active(other.confidence[:, [0]]) == smp.active(smp.confidence[:, [0]]) == ("b",)
