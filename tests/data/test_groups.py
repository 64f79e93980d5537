"""Groups of items that pairs join, against following the pairs one by one."""

import numpy as np
import pytest

from dcal_core.data.groups import join_pairs, members


def followed(pairs, count: int) -> list[int]:
    """The smallest item that each one reaches, found by going along the pairs until nothing changes."""
    reached = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            reached[a] = reached[b] = min(reached[a], reached[b])
    return reached


@pytest.mark.parametrize("seed", range(20))
def test_items_are_together_where_pairs_lead_from_one_to_the_other(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 30))
    pairs = random.integers(0, count, (int(random.integers(1, count)), 2)).tolist()
    group, reached = join_pairs(pairs, count), followed(pairs, count)
    assert [group[a] == group[b] for a in range(count) for b in range(count)] == [
        reached[a] == reached[b] for a in range(count) for b in range(count)
    ]


def test_groups_are_numbered_by_their_first_items():
    assert join_pairs([(5, 1), (4, 5), (2, 0)], 6).tolist() == [0, 1, 0, 2, 1, 1]


def test_without_pairs_each_item_is_alone():
    assert join_pairs([], 3).tolist() == [0, 1, 2]


def test_the_members_of_a_group_stand_in_order():
    group = np.array([1, 0, 1, 2, 1])
    assert [found.tolist() for found in members(group)] == [[1], [0, 2, 4], [3]]
