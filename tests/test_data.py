from itertools import product

import pytest
import torch

from rnnlab.data.random import RandomData
from rnnlab.data.samplers import GlobalBatches, even_batches


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_global_batches_hold_the_same_samples_on_any_number_of_ranks(world_size):
    def epoch(rank, world_size):
        sampler = GlobalBatches(50, 8, None, seed=3, rank=rank, world_size=world_size)
        sampler.set_epoch(2)
        return list(sampler)

    alone = epoch(0, 1)
    shares = [epoch(rank, world_size) for rank in range(world_size)]
    assert len(alone) == 50 // 8
    for k, batch in enumerate(alone):
        assert sorted(torch.cat([share[k] for share in shares]).tolist()) == sorted(batch.tolist())


def test_an_epoch_repeats_nothing_and_every_epoch_of_every_seed_has_its_order():
    orders = set()
    for seed, epoch in product(range(4), range(4)):
        sampler = GlobalBatches(64, 8, None, seed)
        sampler.set_epoch(epoch)
        order = torch.cat(list(sampler))
        assert sorted(order.tolist()) == list(range(64))
        assert torch.equal(order, torch.cat(list(sampler)))
        orders.add(tuple(order.tolist()))
    assert len(orders) == 16


@pytest.mark.parametrize("position", [1, 5, 6, 25])
def test_an_epoch_goes_on_at_any_position(position):
    whole, resumed = (GlobalBatches(50, 8, steps=30, seed=0) for _ in range(2))
    resumed.load_state_dict({"epoch": 0, "position": position})
    assert torch.equal(torch.stack(list(resumed)), torch.stack(list(whole))[position:])


def test_a_small_set_repeats_within_an_epoch():
    batches = list(GlobalBatches(3, 2, steps=6, seed=0))
    assert len(batches) == 6
    assert torch.bincount(torch.cat(batches)).tolist() == [4, 4, 4]


@pytest.mark.parametrize("size", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_sees_every_sample_once(size, world_size, batch_size):
    ranks = [torch.cat(even_batches(size, batch_size, rank, world_size)) for rank in range(world_size)]
    if size < world_size:
        assert all(rank.tolist() == list(range(size)) for rank in ranks)
    else:
        assert sorted(torch.cat(ranks).tolist()) == list(range(size))
        for rank in range(world_size):
            assert all(len(batch) <= batch_size for batch in even_batches(size, batch_size, rank, world_size))


def test_random_targets_follow_the_teacher():
    data = RandomData("values", input_size=3, output_size=2, seq_len=6, num_train=4000)
    data.setup("fit")
    x, y, *_ = data.splits["train"][torch.arange(4000)]
    state = torch.zeros(4000, 3)
    for step in x.unbind(1):
        state = 0.8 * state + step
    # y is linear in the teacher's state and has unit variance
    fit = torch.linalg.lstsq(state, y).solution
    torch.testing.assert_close(state @ fit, y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y.std(0), torch.ones(2), atol=0.05, rtol=0)


def test_random_labels_are_the_largest_value_and_noise_is_independent():
    targets = {}
    for target in ("values", "labels", "noise"):
        data = RandomData(target, num_train=4000)
        data.setup("fit")
        targets[target] = data.splits["train"][torch.arange(4000)].y
    assert torch.equal(targets["values"].argmax(1), targets["labels"])
    assert abs((targets["noise"] == targets["labels"]).float().mean() - 0.5) < 0.03
