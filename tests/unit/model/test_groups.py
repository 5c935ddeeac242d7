"""Whole cards in groups, by their id alone."""

from __future__ import annotations

import numpy as np
import pytest

from model.groups import card_folds, card_shares, held_out
from stream_features.errors import UsageError

CARDS = np.array([f"card-{number}" for number in range(2_000)])


def test_a_cards_share_depends_on_its_id_and_the_purpose_only():
    shares = card_shares(CARDS, "a")
    assert card_shares(CARDS[::-1], "a").tolist() == shares[::-1].tolist()
    assert card_shares(CARDS[[7, 7, 3]], "a").tolist() == shares[[7, 7, 3]].tolist()
    assert abs(np.corrcoef(shares, card_shares(CARDS, "b"))[0, 1]) < 0.1


def test_shares_are_even():
    counts = np.histogram(card_shares(CARDS, "a"), bins=10, range=(0, 1))[0]
    assert counts.sum() == 2_000
    assert counts.min() > 150


def test_a_larger_share_holds_the_smaller_one():
    small, large = held_out(CARDS, 0.1), held_out(CARDS, 0.3)
    assert small.mean() == pytest.approx(0.1, abs=0.03)
    assert large.mean() == pytest.approx(0.3, abs=0.03)
    assert large[small].all()


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 20.0, float("nan")])
def test_what_is_no_share_is_a_usage_error(share):
    with pytest.raises(UsageError, match="--valid-cards takes a share"):
        held_out(CARDS, share)


def test_folds_hold_whole_cards_and_deal_out_defrauded_ones_evenly():
    cards = np.repeat(CARDS[:60], 3)
    labels = np.zeros(len(cards), dtype=np.uint8)
    labels[np.arange(0, 39, 3)] = 1  # one row of each of 13 cards
    fold = card_folds(cards, labels, 5)
    assert all(len(set(fold[cards == card].tolist())) == 1 for card in set(cards.tolist()))
    defrauded = np.isin(cards, cards[labels == 1])
    assert sorted(np.bincount(fold[defrauded]) // 3) == [2, 2, 3, 3, 3]
    assert sorted(np.bincount(fold[~defrauded]) // 3) == [9, 9, 9, 10, 10]
    shuffled = np.random.default_rng(0).permutation(len(cards))
    assert card_folds(cards[shuffled], labels[shuffled], 5).tolist() == fold[shuffled].tolist()


def test_too_few_defrauded_cards_for_the_folds_are_a_usage_error():
    with pytest.raises(UsageError, match="fraud on at least 2 cards among the training rows, not 1"):
        card_folds(CARDS[:3], np.array([1, 0, 0], dtype=np.uint8), 2)


def test_legitimate_rows_in_one_fold_only_are_a_usage_error():
    with pytest.raises(UsageError, match="legitimate training rows of several cards"):
        card_folds(CARDS[:3], np.array([1, 1, 0], dtype=np.uint8), 2)


def test_cards_that_all_had_fraud_can_be_folded():
    cards = np.repeat(CARDS[:6], 2)
    fold = card_folds(cards, np.tile([1, 0], 6).astype(np.uint8), 3)
    assert np.bincount(fold).tolist() == [4, 4, 4]
