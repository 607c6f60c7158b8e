"""The memory tasks: each rule, restated step by step, and samples that depend on their index alone."""

import os
from itertools import combinations

import pytest
import torch
from test_errors import message_of

from rnnlab.data import memory
from rnnlab.data.spec import IGNORED
from rnnlab.data.synthetic import FreshBatches, derive_key, uniform

TASKS = [value for name, value in vars(memory).items() if name.endswith("Data") and name != "SyntheticData"]


def samples(data, split="val", count=300):
    data.setup("fit")
    return data.splits[split][torch.arange(count)][:2]


def rows(*tensors):
    """The samples of a batch as lists, one after the other."""
    return zip(*(tensor.tolist() for tensor in tensors), strict=True)


def test_the_random_numbers_are_those_of_splitmix64():
    """The first five of seed 1234567, from the reference implementation's published test vector (Vigna 2015)."""
    published = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    numbers = uniform(1234567, torch.tensor([0]), 5)[0].double()
    assert (numbers * 2**24).tolist() == [value >> 40 for value in published]
    assert torch.equal(uniform(1234567, torch.tensor([2, 0]), 5)[1], numbers.float())
    assert torch.equal(uniform(1234567, torch.arange(5), 1)[:, 0], numbers.float())


def test_the_random_numbers_are_uniform_and_independent():
    numbers, other = (uniform(derive_key(0, 0, seed), torch.arange(50_000), 8).double() for seed in (1, 2))
    counts = torch.histc(numbers, 16, 0, 1)
    chi2 = ((counts - 25_000) ** 2 / 25_000).sum()
    assert chi2 < 37.7  # the 0.999 quantile for 15 degrees of freedom
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 4.5 / 50_000**0.5
    assert torch.corrcoef(torch.stack((numbers[1:, 0], numbers[:-1, 0])))[0, 1].abs() < 4 / 50_000**0.5
    assert torch.corrcoef(torch.stack((numbers.flatten(), other.flatten())))[0, 1].abs() < 4 / 400_000**0.5


def test_adding():
    x, y = samples(memory.AddingData(seq_len=21))
    assert x.shape == (300, 21, 2)
    for values, markers, target in rows(x[..., 0], x[..., 1], y):
        marked = [t for t, marker in enumerate(markers) if marker == 1]
        assert sum(markers) == len(marked) == 2
        assert marked[0] < 10 <= marked[1]
        assert target == [pytest.approx(values[marked[0]] + values[marked[1]], abs=1e-6)]
    x, y = samples(memory.AddingData(100), count=20_000)
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, abs=0.005)
    assert set(x[..., 1].argmax(1).tolist()) == set(range(50))


def test_latch():
    x, y = samples(memory.LatchData(seq_len=9, symbols=5))
    assert torch.equal(x[:, 0], y)
    assert set(y.tolist()) == set(range(5))
    assert set(x[:, 1:].flatten().tolist()) == set(range(5, 10))


def test_temporal_order():
    data = memory.TemporalOrderData(100)
    x, y = samples(data, count=2000)
    first, second = set(), set()
    for row, label in rows(x, y):
        symbols = ["EBabcdXY"[number] for number in row]
        assert symbols[0] == "E"
        assert symbols[-1] == "B"
        steps = [t for t, symbol in enumerate(symbols) if symbol in "XY"]
        assert "".join(symbols[t] for t in steps) == data.spec.classes[label]
        assert set(symbols[1:-1]) <= set("abcdXY")
        first.add(steps[0])
        second.add(steps[1])
    assert first == set(range(10, 21))
    assert second == set(range(50, 61))
    assert torch.bincount(y).min() > 400


def test_parity():
    data = memory.ParityData(32, test_lengths=(64, 256), batch_size=50)
    data.setup("test")
    for length, loader in zip((32, 64, 256), data.test_dataloader(), strict=True):
        x, y, *_ = next(iter(loader))
        assert x.shape[1:] == y.shape[1:] == (length,)
        for bits, parities in rows(x, y):
            state = 0
            for bit, parity in zip(bits, parities, strict=True):
                state ^= bit
                assert parity == state


def test_echo():
    x, y = samples(memory.EchoData(seq_len=12, lag=4, symbols=3))
    assert (y[:, :4] == IGNORED).all()
    assert torch.equal(y[:, 4:], x[:, :8])
    assert set(x.flatten().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", [memory.CopyData, memory.SelectiveCopyData])
def test_copy(kind):
    x, y = samples(kind(seq_len=17, length=4, symbols=6))
    where = set()
    for symbols, targets in rows(x, y):
        steps = [t for t, symbol in enumerate(symbols) if symbol < 6]
        where |= set(steps)
        assert len(steps) == 4
        assert [symbols[t] for t in steps] == targets[-4:]
        assert targets[:-4] == [IGNORED] * 13
        assert symbols[12] == 7
        assert all(symbol == 6 for t, symbol in enumerate(symbols) if t not in steps and t != 12)
    assert where == set(range(4) if kind is memory.CopyData else range(12))


@pytest.mark.parametrize("kind", TASKS)
def test_samples_depend_on_their_index_alone(kind):
    data, other = kind(40), kind(40, seed=1)
    firsts = [samples(other, count=40)[0]]
    for split in ("train", "val", "test"):
        x, y = samples(data, split, 40)
        some = data.splits[split][torch.tensor([33, 4])]
        assert torch.equal(some.x, x[[33, 4]])
        assert torch.equal(some.y, y[[33, 4]])
        firsts.append(x)
    assert not any(torch.equal(*pair) for pair in combinations(firsts, 2))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_batch_is_the_same_on_any_number_of_ranks_and_never_comes_again(world_size):
    def epoch(number, rank, world_size):
        batches = FreshBatches(8, 5, rank, world_size)
        batches.set_epoch(number)
        return list(batches)

    seen = []
    for number in range(3):
        shares = [epoch(number, rank, world_size) for rank in range(world_size)]
        for k, batch in enumerate(epoch(number, 0, 1)):
            assert sorted(torch.cat([share[k] for share in shares]).tolist()) == batch.tolist()
            seen += batch.tolist()
    assert seen == list(range(3 * 5 * 8))
    middle = FreshBatches(8, 5)
    middle.load_state_dict({"epoch": 1, "position": 3})
    middle.set_epoch(1)
    assert torch.cat(list(middle)).tolist() == list(range(64, 80))


def test_training_samples_follow_the_run_seed_and_test_samples_do_not(monkeypatch):
    def parts(seed):
        monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", str(seed))
        data = memory.LatchData(20)
        return samples(data, "train")[0], samples(data, "test")[0]

    (train, test), (other, same) = parts(1), parts(2)
    assert not torch.equal(train, other)
    assert torch.equal(test, same)


def test_the_score_of_each_length_is_its_own(script):
    small = ("model=classifier", "data=parity", "cell=rnn", "data.test_lengths=[5,90]", "data.epoch_steps=5")
    trained = script("train", *small, "trainer.max_epochs=1")
    names = {"loss", "accuracy", "f1"}
    assert set(trained.metrics) == {f"test/{name}{tail}" for name in names for tail in ("", "_5", "_90")}
    assert trained.metrics["test/loss_5"] != trained.metrics["test/loss_90"]
    other = script("evaluate", f"ckpt={trained.folder}/checkpoints/best.ckpt", "data.test_lengths=[90]", folder="other")
    assert set(other.metrics) == {f"test/{name}{tail}" for name in names for tail in ("", "_90")}
    assert other.metrics["test/loss_90"] == trained.metrics["test/loss_90"]


def test_a_preset_goes_on_from_a_checkpoint_and_ends_when_solved(script):
    small = ("experiment=memory/parity", "cell=irnn", "data.seq_len=4", "data.test_lengths=[]", "data.epoch_steps=60")
    small += ("optim.lr=1e-2", "optim.scheduler=null", "logger=none", "trainer=cpu")
    script("train", *small, "trainer.max_epochs=1", folder="runs/one")
    more = script("train", *small, "trainer.max_epochs=500", "ckpt=last", folder="runs/two")
    assert more.metrics["test/accuracy"] > 0.99
    steps = more.last["global_step"]
    assert 60 < steps < 60 * 500


def test_the_exploding_preset_explodes_and_shows_it(script):
    result = script("train", "experiment=memory/exploding", "trainer=cpu", check=False)
    message_of(result, "10", "optim.lr", "earlier steps are intact")
    assert "gradient_clip_val" not in result.stderr  # which is set
    rows = [line.split(",") for line in (result.folder / "gradient_flow.csv").read_text().splitlines()[1:]]
    first = {int(step): float(norm) for _, step, t, norm in rows if t == "1"}
    assert first[0] < 100
    assert first[10] > 1e18  # beyond which squares leave the range of 32 bits
    assert (result.folder / "figures" / "gradient_flow.png").stat().st_size > 10_000
