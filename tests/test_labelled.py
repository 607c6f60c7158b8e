"""Labelled sequences: read from files, split by class, padded, and predicted."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELLED, composed
from omegaconf import OmegaConf

from rnnlab.data.batch import Batch
from rnnlab.data.digits import DigitsData
from rnnlab.data.labelled import LabelledData, stratify
from rnnlab.tasks.classifier import SequenceClassifier
from rnnlab.utils.errors import UserError

NAMES = np.array(["down", "up", "wave"])


def sequences(number=120, seed=0):
    """Padded x, (number, 12, 2), and y, the way in which the first feature goes; with noise behind the end."""
    random = np.random.default_rng(seed)
    y, t = np.arange(number) % 3, np.arange(12)
    x = random.normal(size=(number, 12, 2))
    x[..., 0] = 100 + 7 * (np.stack((-t, t, 4 * np.sin(t)))[y] + 0.3 * x[..., 0])
    return {"x": x, "y": NAMES[y], "lengths": random.integers(5, 13, number)}


def npz(tmp_path, name="data.npz", **arrays):
    """A file of these arrays; without any, of learnable sequences."""
    path = tmp_path / name
    np.savez(path, **(arrays or sequences()))
    return path


def table(tmp_path, name="data.csv", **columns):
    """A file of three sequences of two steps; `columns` replaces or adds."""
    path = tmp_path / name
    usual = {"sequence_id": list("aabbcc"), "time": [0, 1] * 3, "f": np.arange(6.0), "label": list("uuvvuu")}
    pd.DataFrame({**usual, **columns}).to_csv(path, index=False)
    return path


def data_of(path, spec=None, stage="fit", **arguments):
    data = LabelledData(str(path), **arguments)
    data.spec = spec
    data.setup(stage)
    return data


def whole(data, split):
    dataset = data.splits[split]
    x, y, lengths, *_ = dataset[torch.arange(len(dataset))]
    return (x, y) if lengths is None else (x, y, lengths)


def long_table(x, y, lengths):
    """The same sequences with a row for each step."""
    inside = np.arange(x.shape[1]) < lengths[:, None]
    which, step = np.nonzero(inside)
    return pd.DataFrame(
        {"sequence_id": which, "time": step, "a": x[inside][:, 0], "b": x[inside][:, 1], "label": y[which]}
    )


# reading and splitting


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_arrays_and_tables_give_the_same_batches(name, tmp_path):
    arrays = sequences()
    frame = long_table(**arrays)
    if name.endswith("csv"):
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_parquet(tmp_path / name)
    one, other = data_of(npz(tmp_path, **arrays)), data_of(tmp_path / name)
    assert one.spec.classes == other.spec.classes == tuple(NAMES)
    assert other.spec.covariates == ("a", "b")
    for split in ("train", "val", "test"):
        (x, y, lengths), (x2, y2, lengths2) = whole(one, split), whole(other, split)
        torch.testing.assert_close(x, x2)
        assert torch.equal(y, y2)
        assert lengths == lengths2
        assert [str(number) for number in one.ids(split)] == other.ids(split)


def test_rows_may_be_in_any_order(tmp_path):
    frame = long_table(**sequences())
    frame.to_csv(tmp_path / "sorted.csv", index=False)
    first = frame["time"] == 0
    dated = frame.assign(time=pd.Timestamp("2024-01-13") + pd.to_timedelta(frame["time"], unit="D"))
    pd.concat((dated[first], dated[~first][::-1])).to_csv(tmp_path / "mixed.csv", index=False)
    one, other = data_of(tmp_path / "sorted.csv"), data_of(tmp_path / "mixed.csv")
    torch.testing.assert_close(whole(one, "train")[0], whole(other, "train")[0])
    frame.drop(columns="time").to_csv(tmp_path / "untimed.csv", index=False)
    assert torch.equal(whole(data_of(tmp_path / "untimed.csv", time=None), "train")[0], whole(one, "train")[0])


def test_batches_are_padded_with_zeros_to_their_longest(tmp_path):
    arrays = sequences()
    data = data_of(npz(tmp_path, **arrays))
    ids, part = np.array(data.ids("train")), data.splits["train"]
    mean, deviation = np.array(data.spec.scale).T
    for index in (torch.tensor([5, 0, 17]), torch.arange(len(part)), torch.tensor([3])):
        x, y, lengths, *_ = part[index]
        chosen = ids[index.numpy()]
        assert lengths == arrays["lengths"][chosen].tolist()
        assert all(type(length) is int for length in lengths)
        assert x.shape == (len(index), max(lengths), 2)
        assert [NAMES[label] for label in y] == arrays["y"][chosen].tolist()
        for row, number, length in zip(x, chosen, lengths, strict=True):
            expected = (arrays["x"][number, :length] - mean) / deviation
            np.testing.assert_allclose(row[:length], expected, atol=1e-5)
            assert not row[length:].any()


def test_sequences_of_one_length_need_no_lengths(tmp_path):
    arrays = sequences()
    x, y = whole(data_of(npz(tmp_path, x=arrays["x"], y=arrays["y"])), "test")
    assert x.shape == (18, 12, 2)
    assert y.bincount().tolist() == [6, 6, 6]
    even = {**arrays, "lengths": np.full(120, 7)}
    cut, _ = whole(data_of(npz(tmp_path, **even)), "test")
    assert cut.shape == (18, 7, 2)
    flat, _ = whole(data_of(npz(tmp_path, x=arrays["x"][..., 0], y=arrays["y"])), "test")
    assert torch.equal(flat, x[..., :1])


def test_what_is_fitted_is_fitted_on_real_steps_of_the_training_part(tmp_path):
    arrays = sequences()
    arrays["x"] = np.concatenate((arrays["x"], np.full((120, 12, 1), 0.1), 1e9 + arrays["x"][..., :1]), axis=-1)
    data = data_of(npz(tmp_path, **arrays))
    steps = np.concatenate([arrays["x"][k, : arrays["lengths"][k]] for k in data.ids("train")])
    expected = np.stack((steps.mean(0), steps.std(0)), 1)
    expected[2, 1] = 1  # what never changes
    np.testing.assert_allclose(data.spec.scale, expected)
    x, _, lengths = whole(data, "train")
    inside = torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])
    torch.testing.assert_close(inside.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside.std(0, correction=0), torch.tensor([1.0, 1, 0, 1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("counts", [(100, 50, 10), (7, 7), (1, 30, 2), (40,) * 10])
def test_parts_have_the_same_mixture_of_classes(counts):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    shares = (0.7, 0.15, 0.15)
    for seed in range(5):
        parts = stratify(labels, shares, seed)
        assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
        for share, part in zip(shares, parts.values(), strict=True):
            assert abs(len(part) - share * len(labels)) <= 1
            assert np.abs(np.bincount(labels[part], minlength=len(counts)) - share * np.array(counts)).max() < 2
        assert np.bincount(labels[parts["train"]], minlength=len(counts)).min() >= 1
    first, again, other = (stratify(labels, shares, seed)["train"].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_a_share_of_nothing_leaves_a_part_out(tmp_path):
    assert list(data_of(npz(tmp_path), split=[0.8, 0.2, 0]).splits) == ["train", "val"]
    spec = data_of(npz(tmp_path)).spec
    data = data_of(npz(tmp_path), spec, stage="test", split=[0, 0, 1])
    assert list(data.splits) == ["test"]
    assert list(data.ids("test")) == list(range(120))
    assert len(data.example(3)[0]) == 3


def test_classes_are_named_and_sorted(tmp_path):
    x = np.random.default_rng(0).random((40, 3, 1))

    def classes(**arrays):
        return data_of(npz(tmp_path, x=x, **arrays)).spec.classes

    assert classes(y=np.tile([10, 9, -1, 9], 10)) == ("-1", "9", "10")
    assert classes(y=np.tile(["b10", "b9"], 20)) == ("b10", "b9")
    assert classes(y=np.tile([True, False], 20)) == ("False", "True")
    assert classes(y=np.tile([1, 0], 20), classes=np.array(["z", "a", "none"])) == ("z", "a", "none")


def test_ids_and_labels_of_a_table_are_text(tmp_path):
    rows = [f"{n:03},{t},{n * t},{('007', '7', 'NA', '10')[n % 4]}" for n in range(40) for t in range(2)]
    (tmp_path / "data.csv").write_text("\n".join(["sequence_id,time,f,label", *rows]))
    data = data_of(tmp_path / "data.csv")
    assert data.spec.classes == ("007", "10", "7", "NA")
    assert data.ids("train")[0].startswith("0")
    (tmp_path / "data.csv").write_text("\n".join(["sequence_id,time,f,label", *rows]).replace("NA", "-3"))
    assert data_of(tmp_path / "data.csv").spec.classes == ("-3", "007", "7", "10")
    # in a column as long as this, pandas takes the first half for numbers
    long = pd.DataFrame({"sequence_id": np.arange(300_000), "f": 1.0 * np.arange(300_000)})
    long["label"] = ["007"] * 299_000 + ["x"] * 1000
    long.to_csv(tmp_path / "long.csv", index=False)
    assert data_of(tmp_path / "long.csv", time=None).spec.classes == ("007", "x")


def test_other_columns_are_features_unless_they_are_named(tmp_path):
    path = table(tmp_path, b=np.arange(6.0) ** 2, a=np.ones(6))
    how = {"split": [1, 0, 0]}
    assert data_of(path, **how).spec.covariates == ("f", "b", "a")
    data = data_of(path, features=["a", "f"], **how)
    assert data.spec.covariates == ("a", "f")
    # a new file, its columns in another order and with one more
    new = table(tmp_path, "new.csv", f=np.arange(6.0) + 1, a=np.zeros(6), more=np.ones(6))
    x, _ = whole(data_of(new, data.spec, stage="test", split=[0, 0, 1]), "test")
    mean, deviation = data.spec.scale[1]
    torch.testing.assert_close(x[..., 1].flatten(), (torch.arange(1.0, 7) - mean) / deviation)
    assert x[..., 0].unique().tolist() == [-1]


def test_a_checkpoint_brings_its_classes_and_scale(tmp_path):
    spec = data_of(npz(tmp_path)).spec
    arrays = sequences(seed=1)
    kept = arrays["y"] != "down"
    some = npz(tmp_path, "some.npz", **{name: array[kept] for name, array in arrays.items()})
    data = data_of(some, spec, stage="test", split=[0, 0, 1])
    assert data.spec == spec
    x, y, _ = whole(data, "test")
    assert y.unique().tolist() == [1, 2]
    assert x[0, 0, 0].item() == pytest.approx((arrays["x"][kept][0, 0, 0] - spec.scale[0][0]) / spec.scale[0][1])


def test_digits():
    data = DigitsData()
    data.setup("fit")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 1258, "val": 269, "test": 270}
    x, y = whole(data, "test")
    assert x.shape == (270, 64, 1)
    assert (x.min(), x.max()) == (0, 1)
    assert y.bincount().max() / len(y) == pytest.approx(0.1, abs=0.01)
    assert data.spec.classes == tuple("0123456789")
    split = next(split for split in data.splits if 0 in data.ids(split))
    first, label, *_ = data.splits[split][torch.tensor([data.ids(split).index(0)])]
    assert label.item() == 0
    assert (first[0, :8, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]  # the first row of the first digit


# the network


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "mingru"])  # all others: test_cells.py
def test_padding_changes_nothing(cell, bidirectional, readout, tmp_path):
    cfg = composed(f"cell={cell}", f"cell.bidirectional={str(bidirectional).lower()}", "cell.num_layers=2")
    data = data_of(npz(tmp_path))
    torch.manual_seed(0)
    task = SequenceClassifier(OmegaConf.to_container(cfg.cell), {}, data.spec.as_dict(), readout).eval()
    part = data.splits["test"]
    with torch.inference_mode():
        together, *_ = task.predict(Batch(*whole(data, "test")))
        for number, logits in enumerate(together):
            x, *_ = part[torch.tensor([number])]
            torch.testing.assert_close(task(x)[0][0], logits, atol=1e-6, rtol=1e-6)


# whole runs

SMALL = ("model=classifier", "trainer=cpu", "logger=none")


def test_train_evaluate_predict(script, tmp_path):
    path = npz(tmp_path)
    trained = script("train", *SMALL, "data=labelled", f"data.path={path}", "cell=gru", "trainer.max_epochs=15")
    assert trained.metrics["test/accuracy"] > 0.9
    assert (trained.folder / "figures" / "test_confusion.png").stat().st_size > 1000
    ckpt = trained.folder / "checkpoints" / "best.ckpt"
    saved = torch.load(ckpt, weights_only=True)
    assert saved["hyper_parameters"]["spec"]["classes"] == list(NAMES)

    out = tmp_path / "predictions.csv"
    evaluated = script("evaluate", "trainer=cpu", f"ckpt={ckpt}", f"out={out}", folder="evaluation")
    assert evaluated.metrics == trained.metrics
    assert f"predictions: {out}" in evaluated.stdout
    table = pd.read_csv(out)
    assert list(table) == ["sequence", "label", "predicted", "p_down", "p_up", "p_wave"]
    data = data_of(path)
    assert table["sequence"].tolist() == data.ids("test")
    assert table["label"].tolist() == sequences()["y"][data.ids("test")].tolist()
    assert (table["label"] == table["predicted"]).mean() == pytest.approx(trained.metrics["test/accuracy"])
    probabilities = table[[f"p_{name}" for name in NAMES]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-7)
    assert NAMES[probabilities.argmax(1)].tolist() == table["predicted"].tolist()
    losses = -np.log(probabilities[table["label"].to_numpy()[:, None] == NAMES])
    assert losses.mean() == pytest.approx(trained.metrics["test/loss"], rel=1e-5)

    new = tmp_path / "new.csv"
    frame = long_table(**sequences(30, seed=1))
    frame.assign(sequence_id="s" + frame["sequence_id"].astype(str)).to_csv(new, index=False)
    other = script("evaluate", f"ckpt={ckpt}", f"data.path={new}", "data.split=[0,0,1]", f"out={out}", folder="new")
    assert other.metrics["test/accuracy"] > 0.9
    assert pd.read_csv(out)["sequence"].tolist() == [f"s{number}" for number in range(30)]
    assert not list(tmp_path.glob("*.partial"))


def test_predictions_of_every_step(script, tmp_path):
    few = ("data.num_test=7", "data.num_val=5", "data.epoch_steps=3", "trainer.max_epochs=1")
    trained = script("train", *SMALL, "data=echo", "data.seq_len=20", "data.lag=4", *few, "callbacks=none")
    ckpt = trained.folder / "checkpoints" / "last.ckpt"
    script("evaluate", f"ckpt={ckpt}", f"out={tmp_path}/steps.csv", folder="evaluation")
    table = pd.read_csv(tmp_path / "steps.csv")
    assert list(table)[:4] == ["sequence", "step", "label", "predicted"]
    assert table[["sequence", "step"]].to_numpy().tolist() == [[n, step] for n in range(7) for step in range(5, 21)]
    assert (table["label"] == table["predicted"]).mean() == pytest.approx(trained.metrics["test/accuracy"])


def test_two_processes_train_as_one(script, tmp_path):
    """Each rank pads its own share of a batch."""
    path = npz(tmp_path)
    how = (*SMALL, "data=labelled", f"data.path={path}", "trainer.max_epochs=2", "callbacks=none")
    one = script("train", *how, "data.batch_size=16", folder="one")
    two = script("train", *how, "data.batch_size=8", "trainer=ddp_cpu", folder="two")
    assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
    ckpt = two.folder / "checkpoints" / "last.ckpt"
    refused = script("evaluate", f"ckpt={ckpt}", "trainer=ddp_cpu", f"out={tmp_path}/p.csv", check=False)
    assert refused.stderr == f"Error: out={tmp_path}/p.csv is written by a single process: set trainer.devices=1.\n"


# what a user gets wrong


def test_predictions_replace_nothing_that_is_read(script, tmp_path):
    ckpt_of = script("train", *SMALL, "data=labelled", f"data.path={LABELLED}", "debug=fast").folder / "checkpoints"
    ckpt = ckpt_of / "last.ckpt"
    table = tmp_path / "data.csv"
    table.write_bytes(LABELLED.read_bytes())
    for path, key in ((table, "data.path"), (ckpt, "ckpt")):
        before = path.read_bytes()
        result = script("evaluate", f"ckpt={ckpt}", f"data.path={table}", f"out={path}", check=False)
        assert result.stderr == f"Error: out={path} would replace {key}={path}. Choose another file.\n"
        assert path.read_bytes() == before
    result = script("evaluate", f"ckpt={ckpt}", f"out={tmp_path}/no/folder.csv", check=False)
    assert result.stderr == f"Error: out={tmp_path}/no/folder.csv cannot be written: No such file or directory.\n"


X, Y = np.arange(24.0).reshape(4, 3, 2), np.arange(4) % 2
HOLES = np.where(np.isin(X, (9, 16)), np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": Y}, "x is not a file in the archive"),
        ({"x": X}, "y is not a file in the archive"),
        ({"x": X.astype(str), "y": Y}, "x is <U32 of shape (4, 3, 2); it has to be numbers"),
        ({"x": X[0, 0], "y": Y}, "x is float64 of shape (2,); it has to be numbers, (sequences, time, features)"),
        ({"x": X[:, :0], "y": Y}, "x is float64 of shape (4, 0, 2)"),
        ({"x": X, "y": Y[:3]}, "y is int64 of shape (3,); it has to be integers or strings of shape (4,)"),
        ({"x": HOLES, "y": Y}, "x is not a finite number in sequence 1 step 2, sequence 2 step 3. If it pads"),
        ({"x": X * 1e38, "y": Y}, "x is not a finite number in sequence 0 step 3"),
        ({"x": X, "y": Y, "lengths": [3, 4, 0, 3]}, "lengths have to be from 1 to 3."),
        ({"x": X, "y": Y + 1, "classes": ["a", "b"]}, "and y their indices, from 0 to 1"),
        ({"x": X, "y": Y, "classes": ["a", "a"]}, "classes have to be different names"),
        ({"x": X, "y": Y * 0 + 5}, "all sequences have the label 5"),
    ],
)
def test_arrays_that_are_not_as_they_should_be(arrays, words, tmp_path):
    path = npz(tmp_path, **arrays)
    with pytest.raises(UserError) as raised:
        data_of(path)
    message = str(raised.value)
    assert message.startswith(f"data.path={path}")
    assert words in message
    assert "\n" not in message


def test_what_lengths_cut_off_need_not_be_finite(tmp_path):
    path = npz(tmp_path, x=HOLES, y=Y, lengths=[3, 1, 2, 2])
    assert whole(data_of(path, split=[1, 0, 0]), "train")[0].isfinite().all()


def test_files_that_are_none(tmp_path):
    right = npz(tmp_path).read_bytes()
    for name, content, words in (
        ("text.npz", b"x,y\n1,2\n", "File is not a zip file"),
        ("half.npz", right[:1000], "File is not a zip file"),
        ("damaged.npz", right[:500] + bytes(100) + right[600:], ": Bad CRC-32"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"data.path=.*{name}.*{words}"):
            data_of(tmp_path / name)


def test_nothing_in_a_file_is_run(tmp_path):
    class Program:
        def __reduce__(self):
            return Path.touch, (tmp_path / "trace",)

    path = npz(tmp_path, x=X, y=np.array([Program()] * 4, dtype=object))
    with pytest.raises(UserError, match="Object arrays"):
        data_of(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("columns", "arguments", "words"),
    [
        ({}, {"sequence_id": "id"}, "has no column id. It has: sequence_id, time, f, label."),
        ({}, {"features": ["g"]}, "has no column g. It has: sequence_id"),
        ({"f": list("0123x5")}, {}, "f has cells that are not numbers: row 5 (x)."),
        ({"f": [0, 1, np.nan, 3, 4, 5]}, {}, "f has empty cells: row 3."),
        ({"label": list("uuvwuu")}, {}, "labels that differ from the first one of their sequence: row 4 (w)."),
        ({"label": list("uuuuuu")}, {}, "all sequences have the label u"),
        ({"time": [0, 0, 0, 1, 0, 1]}, {}, "time has times that are not later than the one before: row 2 (0)"),
        ({"time": list("0x0101")}, {}, "time has cells that are not dates: row 1 (0), row 2 (x)"),
    ],
)
def test_tables_that_are_not_as_they_should_be(columns, arguments, words, tmp_path):
    path = table(tmp_path, **columns)
    with pytest.raises(UserError) as raised:
        data_of(path, **arguments)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_data_that_do_not_fit_the_checkpoint(tmp_path):
    named = data_of(table(tmp_path), split=[1, 0, 0]).spec
    how = {"stage": "test", "split": [0, 0, 1]}
    for path, spec, arguments, words in (
        (npz(tmp_path, x=X, y=Y), named, {}, "2 features a step, the checkpoint was trained for 1."),
        (table(tmp_path, "b.csv", label=list("uuxxuu")), named, {}, "the checkpoint does not know the label x"),
        (table(tmp_path, "c.csv", g=np.ones(6)), named, {"features": ["g"]}, "was trained for data.features=[f]"),
    ):
        with pytest.raises(UserError) as raised:
            data_of(path, spec, **how, **arguments)
        assert words in str(raised.value)
    with pytest.raises(UserError, match="leaves nothing to train on"):
        data_of(npz(tmp_path), split=[0, 0, 1])


def test_digits_need_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r'need.*: pip install "rnnlab\[data\]", in a clone -e "\.\[data\]"\.$'):
        DigitsData().setup("fit")
