"""The memory tasks: each rule, restated step by step, and samples that depend on their index alone."""

import os

import pytest
import torch
from test_errors import message_of

from rnnlab.data.memory import (
    AddingData,
    CopyData,
    EchoData,
    LatchData,
    ParityData,
    SelectiveCopyData,
    TemporalOrderData,
)
from rnnlab.data.spec import IGNORED
from rnnlab.data.synthetic import FreshBatches, derive_key, uniform
from rnnlab.utils.errors import UserError

TASKS = [AddingData, LatchData, TemporalOrderData, ParityData, EchoData, CopyData, SelectiveCopyData]


def samples(data, split="val", count=300):
    data.setup("fit")
    return data.splits[split][torch.arange(count)][:2]


def test_the_random_numbers_are_those_of_splitmix64():
    """The first five of seed 1234567, from the reference implementation's published test vector (Vigna 2015)."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    numbers = uniform(1234567, torch.tensor([0]), 5)[0].double()
    assert (numbers * 2**24).tolist() == [value >> 40 for value in published]
    assert torch.equal(uniform(1234567, torch.tensor([2, 0]), 5)[1], numbers.float())
    assert torch.equal(uniform(1234567, torch.arange(5), 1)[:, 0], numbers.float())


def test_the_random_numbers_are_uniform_and_independent():
    numbers = uniform(derive_key(0, 0, 1), torch.arange(50_000), 8).double()
    counts = torch.histc(numbers, 16, 0, 1)
    chi2 = ((counts - 25_000) ** 2 / 25_000).sum()
    assert chi2 < 37.7  # the 0.999 quantile for 15 degrees of freedom
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 4.5 / 50_000**0.5
    assert torch.corrcoef(torch.stack((numbers[1:, 0], numbers[:-1, 0])))[0, 1].abs() < 4 / 50_000**0.5
    other = uniform(derive_key(0, 0, 2), torch.arange(50_000), 8).double()
    assert torch.corrcoef(torch.stack((numbers.flatten(), other.flatten())))[0, 1].abs() < 4 / 400_000**0.5


def test_adding():
    x, y = samples(AddingData(seq_len=21))
    assert x.shape == (300, 21, 2)
    for values, marks, target in zip(x[..., 0].tolist(), x[..., 1].tolist(), y.tolist(), strict=True):
        marked = [t for t, mark in enumerate(marks) if mark == 1]
        assert sum(marks) == len(marked) == 2
        assert marked[0] < 10 <= marked[1]
        assert target == [pytest.approx(values[marked[0]] + values[marked[1]], abs=1e-6)]
    x, y = samples(AddingData(), count=20_000)
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, abs=0.005)
    assert set(x[..., 1].argmax(1).tolist()) == set(range(50))


def test_latch():
    x, y = samples(LatchData(seq_len=9, symbols=5))
    assert torch.equal(x[:, 0], y)
    assert set(y.tolist()) == set(range(5))
    assert set(x[:, 1:].flatten().tolist()) == set(range(5, 10))


def test_temporal_order():
    data = TemporalOrderData()
    x, y = samples(data, count=2000)
    first, second = set(), set()
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        signs = ["EBabcdXY"[number] for number in row]
        assert signs[0] == "E"
        assert signs[-1] == "B"
        places = [t for t, sign in enumerate(signs) if sign in "XY"]
        assert "".join(signs[t] for t in places) == data.spec.classes[label]
        assert set(signs[1:-1]) <= set("abcdXY")
        first.add(places[0])
        second.add(places[1])
    assert first == set(range(10, 21))
    assert second == set(range(50, 61))
    assert torch.bincount(y).min() > 400


def test_parity():
    data = ParityData()
    for length, split in ((32, "test"), (64, "test_64"), (128, "test_128"), (256, "test_256")):
        x, y = samples(data, split, 50)
        assert x.shape == y.shape == (50, length)
        for bits, parities in zip(x.tolist(), y.tolist(), strict=True):
            state = 0
            for bit, parity in zip(bits, parities, strict=True):
                state ^= bit
                assert parity == state
    assert len(data.test_dataloader()) == 4


def test_echo():
    x, y = samples(EchoData(seq_len=12, lag=4, symbols=3))
    assert (y[:, :4] == IGNORED).all()
    assert torch.equal(y[:, 4:], x[:, :8])
    assert set(x.flatten().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", [CopyData, SelectiveCopyData])
def test_copy(kind):
    x, y = samples(kind(seq_len=17, length=4, symbols=6))
    where = set()
    for signs, answers in zip(x.tolist(), y.tolist(), strict=True):
        places = [t for t, sign in enumerate(signs) if sign < 6]
        where |= set(places)
        assert len(places) == 4
        assert [signs[t] for t in places] == answers[-4:]
        assert answers[:-4] == [IGNORED] * 13
        assert signs[12] == 7
        assert all(sign == 6 for t, sign in enumerate(signs) if t not in places and t != 12)
    assert where == set(range(4) if kind is CopyData else range(12))


@pytest.mark.parametrize("kind", TASKS)
def test_samples_depend_on_their_index_alone(kind):
    data = kind()
    data.setup("fit")
    for split in ("train", "val", "test"):
        whole = data.splits[split][torch.arange(40)][:2]
        some = data.splits[split][torch.tensor([33, 4])][:2]
        assert all(torch.equal(part, all_of[[33, 4]]) for part, all_of in zip(some, whole, strict=True))
    train, val, test = (data.splits[split][torch.arange(40)][0] for split in ("train", "val", "test"))
    assert not torch.equal(train, val)
    assert not torch.equal(train, test)
    assert not torch.equal(val, test)
    other = kind(seed=1)
    other.setup("fit")
    assert not torch.equal(other.splits["val"][torch.arange(40)][0], val)


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
        data = LatchData()
        return samples(data, "train")[0], samples(data, "test")[0]

    (train, test), (other, same) = parts(1), parts(2)
    assert not torch.equal(train, other)
    assert torch.equal(test, same)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AddingData(seq_len=1), "data.seq_len=1 is too short"),
        (lambda: TemporalOrderData(seq_len=9), "10 or more"),
        (lambda: EchoData(lag=40), "data.lag=40 reaches beyond"),
        (lambda: CopyData(length=15), "data.length=15"),
        (lambda: ParityData(epoch_steps=None), "data.epoch_steps=null"),
    ],
    ids=["adding", "order", "echo", "copy", "endless"],
)
def test_tasks_that_cannot_be(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_the_score_of_each_length_is_its_own(script):
    small = ("model=classifier", "data=parity", "cell=rnn", "data.test_lengths=[5,90]", "data.epoch_steps=5")
    trained = script("train", *small, "trainer.max_epochs=1")
    names = {"loss", "accuracy", "f1"}
    assert set(trained.metrics) == {f"test/{name}{tail}" for name in names for tail in ("", "_5", "_90")}
    assert trained.metrics["test/loss_5"] != trained.metrics["test/loss_90"]
    evaluated = script("evaluate", f"ckpt={trained.folder}/checkpoints/best.ckpt", folder="evaluation")
    assert evaluated.metrics == trained.metrics
    assert (trained.folder / "figures" / "test_confusion.png").exists()
    latch = ("model=classifier", "data=latch", "++data.test_lengths=[7,7]", "debug=fast", "callbacks=none")
    lengths = script("train", *latch, folder="latch")
    assert set(lengths.metrics) == {f"test/{name}{tail}" for name in names for tail in ("", "_7")}
    assert lengths.metrics["test/loss_7"] > 0
    other = script("evaluate", f"ckpt={trained.folder}/checkpoints/best.ckpt", "data.test_lengths=[90]", folder="other")
    assert set(other.metrics) == {f"test/{name}{tail}" for name in names for tail in ("", "_90")}
    assert other.metrics["test/loss_90"] == trained.metrics["test/loss_90"]
    alone = script("evaluate", f"ckpt={trained.folder}/checkpoints/best.ckpt", "data.seq_len=90", folder="alone")
    assert alone.metrics["test/accuracy"] == pytest.approx(trained.metrics["test/accuracy_90"], abs=0.02)


def test_labels_of_steps_and_of_sequences_are_told_apart(script):
    small = ("model=classifier", "data=latch", "data.symbols=2", "data.seq_len=10", "debug=fast")
    ckpt = script("train", *small, "callbacks=none").folder / "checkpoints" / "best.ckpt"
    wrong = script("evaluate", f"ckpt={ckpt}", "data=copy", "data.symbols=2", folder="wrong", check=False)
    message_of(wrong, "every_step True", "False")


def test_a_preset_goes_on_from_a_checkpoint_and_ends_when_solved(script):
    small = ("experiment=memory/parity", "cell=irnn", "data.seq_len=4", "data.test_lengths=[]", "data.epoch_steps=60")
    small += ("optim.lr=1e-2", "optim.scheduler=null", "logger=none", "trainer=cpu")
    script("train", *small, "trainer.max_epochs=1", folder="runs/one")
    more = script("train", *small, "trainer.max_epochs=500", "ckpt=last", folder="runs/two")
    assert more.metrics["test/accuracy"] > 0.99
    steps = torch.load(more.folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 60 < steps < 60 * 500


def test_ddp_trains_on_the_same_endless_samples(script):
    def weights(folder, *overrides):
        small = ("model=classifier", "data=latch", "data.seq_len=10", "data.epoch_steps=6", "trainer.max_epochs=2")
        result = script("train", *small, "data.num_test=101", "callbacks=gradient_flow", *overrides, folder=folder)
        return result, torch.load(result.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    one, alone = weights("one", "trainer=cpu", "data.batch_size=32")
    two, together = weights("two", "trainer=ddp_cpu", "data.batch_size=16")
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
    assert len(two.stdout.splitlines()) == len(one.stdout.splitlines()) + 1  # the batch of a step
    for result in (one, two):
        assert (result.folder / "figures" / "gradient_flow.png").stat().st_size > 10_000


@pytest.mark.parametrize("seed", [1, 2])
def test_the_exploding_preset_explodes_and_shows_it(seed, script):
    result = script("train", "experiment=memory/exploding", f"seed={seed}", "trainer=cpu", check=False)
    message_of(result, "10 consecutive steps had a non-finite gradient", "earlier steps are intact")
    assert "gradient_clip_val" not in result.stderr  # which is set
    rows = [line.split(",") for line in (result.folder / "gradient_flow.csv").read_text().splitlines()[1:]]
    first = {int(step): float(norm) for _, step, t, norm in rows if t == "1"}
    assert first[0] < 100
    assert first[10] > 1e18  # beyond which squares leave the range of 32 bits
    assert (result.folder / "figures" / "gradient_flow.png").stat().st_size > 10_000
