"""Text: how it is encoded, cut into streams, validated and resumed."""

import math
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TEXT, runner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from rnnlab.data import corpus
from rnnlab.data.spec import IGNORED
from rnnlab.data.streams import BURN_IN, StatefulEvalBatches, StatefulTrainBatches, TextBatches
from rnnlab.data.text import PythonData, TextData
from rnnlab.data.vocabulary import UNKNOWN, Vocabulary
from rnnlab.utils import files
from rnnlab.utils.errors import UserError

SMALL = ("model=char", "data=text", f"data.path={TEXT}", "cell=lstm", "cell.hidden_size=16", "data.seq_len=32")
SMALL += ("data.batch_size=8", "trainer=cpu", "callbacks=none", "logger=none")


def opened(path, cache, unit="char"):
    paths = path if isinstance(path, list) else [path]
    return corpus.open_corpus(paths, "name", unit, cache, "the text")


def decoded(text):
    return Vocabulary(text.characters).decode(text.tokens.tolist())


def text_data(path, **settings):
    data = TextData(str(path), **{"batch_size": 4, "seq_len": 16, "cache": str(path.parent / "cache"), **settings})
    data.prepare_data()
    data.setup("fit")
    data.train_dataloader()
    return data


def text_of(data):
    """The text of all splits of a dataset, as its model reads it."""
    tokens = np.concatenate([batches.table[batches.tokens] for batches in data.splits.values()])
    return Vocabulary(data.spec.vocab).decode(tokens.tolist())


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(files, "CHUNK_SIZE", 7)
    monkeypatch.setattr(corpus, "CHUNK_SIZE", 7)


def test_a_text_comes_back_as_it_was(tmp_path, small_chunks):
    text = "naïve Ωmega, 日本語 and 😀\r\n" * 3
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text("\ufeffb", encoding="utf-8")  # a byte order mark is not text
    both = opened([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path)
    assert decoded(both) == text + "b"
    assert both.characters == "".join(sorted(set(text + "b")))
    assert both.counts == [(text + "b").count(character) for character in both.characters]
    assert isinstance(both.tokens, np.memmap)
    assert both.tokens.dtype == np.uint8
    raw = opened(tmp_path / "a.txt", tmp_path, "byte")
    assert bytes(raw.tokens) == text.encode()
    assert decoded(raw) == text


def test_large_vocabularies_take_more_bytes(tmp_path):
    everything = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    (tmp_path / "a.txt").write_text(everything, encoding="utf-8")
    text = opened(tmp_path / "a.txt", tmp_path)
    assert text.tokens.dtype == np.uint16
    assert decoded(text) == everything


def test_the_encoded_text_is_kept_and_never_stale(tmp_path, monkeypatch):
    file, cache = tmp_path / "a.txt", tmp_path / "cache"
    file.write_text("abc")
    os.utime(file, (1, 1))
    first = opened(file, cache)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_encode", None)  # it is not encoded again
        assert decoded(opened(file, cache)) == "abc"
    opened(file, cache, "byte")
    assert len(list(cache.iterdir())) == 2
    file.write_text("abd")
    os.utime(file, (1, 1))  # as copying tools do
    assert decoded(opened(file, cache)) == "abd"
    assert len(list(cache.iterdir())) == 2  # what was encoded from the old text is gone,
    assert decoded(first) == "abc"  # but not for a run that reads it


def _open_in_a_process(file, cache, barrier, lengths):
    barrier.wait()
    lengths.put(len(opened(file, cache).tokens))


def test_two_runs_may_encode_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("some text\n" * 300_000)
    context = multiprocessing.get_context("spawn")
    barrier, lengths = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "a.txt", tmp_path / "cache", barrier, lengths)
    processes = [context.Process(target=_open_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert [lengths.get(timeout=60) for _ in processes] == [3_000_000] * 2
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("raw", "at"),
    [
        (b"abcdefghij\xff", "10"),
        (b"\xef\xbb\xbfhello\xff", "8"),
        ("日本".encode() * 5000 + b"\xff", "30,000"),
    ],
)
def test_the_invalid_byte_is_named(raw, at, tmp_path, small_chunks):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(UserError, match=rf"a\.txt: byte {at} .*data\.unit=byte"):
        opened(tmp_path / "a.txt", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())  # nothing is left of an encoding that failed
    assert bytes(opened(tmp_path / "a.txt", tmp_path, "byte").tokens) == raw


def test_rare_characters_become_one(tmp_path):
    (tmp_path / "a.txt").write_text("aaaaaaaaxbbbbyaa")
    settings = {"batch_size": 1, "seq_len": 4}
    assert text_of(text_data(tmp_path / "a.txt", min_count=2, split=(1, 0, 0), **settings)) == (
        f"aaaaaaaa{UNKNOWN}bbbb{UNKNOWN}aa"
    )
    with pytest.raises(UserError, match=r"data\.min_count=99"):
        text_data(tmp_path / "a.txt", min_count=99, split=(1, 0, 0), **settings)


@pytest.mark.parametrize("steps", [None, 4, 50])
def test_streams_are_the_text(steps):
    text = TextBatches(np.arange(1000), np.arange(1000))
    streams = StatefulTrainBatches(1000, streams=3, seq_len=20, steps=steps, seed=0)
    assert len(streams) == (steps or 16)
    read, passes = [], []
    for epoch in range(8):
        streams.set_epoch(epoch)
        for cut in streams:
            x, y, _, goes_on, _ = text[cut]
            assert torch.equal(y, x + 1)
            if goes_on:
                assert torch.equal(x[:, 0], read[-1][:, -1] + 1)
            else:
                passes.append(x[:, 0])
            read.append(x)
    assert len(passes) == math.ceil(8 * len(streams) / 16)
    assert all(torch.equal(starts - starts[0], torch.tensor([0, 333, 666])) for starts in passes)
    if steps != 4:
        assert len({int(starts[0]) for starts in passes}) > 1  # passes are cut at different places


def test_streams_of_two_ranks_are_those_of_one():
    alone = list(StatefulTrainBatches(5000, 6, 16, None, seed=3))
    ranks = [list(StatefulTrainBatches(5000, 6, 16, None, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    for cut, *shares in zip(alone, *ranks, strict=True):
        assert sorted(np.concatenate([share.starts for share in shares])) == cut.starts.tolist()
        assert {share.carry_state for share in shares} == {cut.carry_state}


@pytest.mark.parametrize("size", [2, 3, 500, 4 * BURN_IN, 10_000, 33_333])
@pytest.mark.parametrize(("streams", "world_size"), [(1, 1), (5, 1), (32, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("seq_len", [16, 1000])
def test_every_prediction_of_a_text_counts_once(size, streams, world_size, seq_len):
    text = TextBatches(np.arange(size), np.arange(size))
    for ranks in [range(world_size)] if size > 4 * BURN_IN * world_size else [[rank] for rank in range(world_size)]:
        counted = []
        for rank in ranks:
            batches = StatefulEvalBatches(size, streams, seq_len, rank, world_size)
            before = None
            for cut in batches:
                x, y, _, goes_on, _ = text[cut]
                assert x.shape[0] <= streams * (world_size if len(ranks) == 1 else 1)
                assert goes_on == (before is not None)
                assert before is None or torch.equal(x[:, 0], before + 1)
                before = x[:, -1]
                assert torch.equal(y[y != IGNORED], (x + 1)[y != IGNORED])
                counted += y[y != IGNORED].tolist()
            late = batches.scored_from - batches.starts
            assert all(late[batches.starts > 0] >= BURN_IN - 1)
        assert sorted(counted) == list(range(1, size))


def network_of(ckpt):
    """The network of a checkpoint in plain torch, in float64; `network(tokens)` gives the nats of each prediction."""
    saved = torch.load(ckpt, weights_only=True)
    weights = {name.removeprefix("network."): value.double() for name, value in saved["state_dict"].items()}
    hidden, inputs = weights["head.weight"].shape[1], weights["cell.weight_ih_l0"].shape[1]
    cell = nn.LSTM(inputs, hidden, batch_first=True, dtype=torch.float64)
    cell.load_state_dict({name[5:]: value for name, value in weights.items() if name.startswith("cell.")})
    characters = saved["hyper_parameters"]["spec"]["vocab"]

    @torch.no_grad()
    def nats(text):
        tokens = torch.tensor([characters.index(character) for character in text])
        out, _ = cell(torch.eye(len(characters), dtype=torch.float64)[tokens[:-1]])
        logits = out @ weights["head.weight"].T + weights["head.bias"]
        return F.cross_entropy(logits, tokens[1:], reduction="none"), (logits.argmax(-1) == tokens[1:]).double().mean()

    return nats


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model of real text, validated on its last tenth: (result, checkpoint)."""
    call = runner(tmp_path_factory.mktemp("trained"))
    result = call("train", *SMALL, "data.epoch_steps=300", "trainer.max_epochs=1", "data.split=[0.9,0.1,0]")
    return result, result.folder / "checkpoints" / "best.ckpt"


def test_validation_is_one_pass_over_the_whole_text(trained, script):
    result, ckpt = trained
    text = TEXT.read_text()
    nats, accuracy = network_of(ckpt)(text[round(0.9 * len(text)) :])
    assert result.metrics["val/loss"] == pytest.approx(nats.mean().item(), abs=1e-5)
    assert result.metrics["val/bits_per_character"] == pytest.approx(nats.mean().item() / math.log(2), abs=2e-5)
    assert result.metrics["val/perplexity"] == pytest.approx(nats.mean().exp().item(), rel=1e-5)
    assert result.metrics["val/accuracy"] == pytest.approx(accuracy.item(), abs=2e-4)
    for how in ("data.seq_len=16", "data.seq_len=64", "data.batch_size=1"):
        again = script("evaluate", f"ckpt={ckpt}", "trainer=cpu", how, folder=how.partition("=")[2])
        assert again.metrics["val/loss"] == pytest.approx(nats.mean().item(), abs=1e-5)


def test_evaluation_in_two_processes(trained, script):
    result, ckpt = trained
    both = script("evaluate", f"ckpt={ckpt}", "trainer=ddp_cpu")
    assert both.metrics == pytest.approx(result.metrics, abs=1e-5)


def test_the_state_is_carried_from_batch_to_batch(script):
    """At learning rate 0 the losses of training are those of one pass over each stream, in plain torch."""
    still = (*SMALL, "data.epoch_steps=40", "trainer.max_epochs=1", "logger=csv", "trainer.log_every_n_steps=1")
    result = script("train", *still, "callbacks=default", "optim=sgd", "optim.lr=1e-30")
    rows = [line.split(",") for line in (result.folder / "metrics.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("train/loss")]) for row in rows[1:] if row[rows[0].index("train/loss")]]
    text = TEXT.read_text()
    size = round(0.9 * len(text))
    streams = StatefulTrainBatches(size, 8, 32, 40, seed=1)
    starts = next(iter(streams)).starts
    nats = network_of(result.folder / "checkpoints" / "last.ckpt")
    whole = torch.stack([nats(text[start : start + 40 * 32 + 1])[0] for start in starts])
    assert losses == pytest.approx(whole.view(8, 40, 32).mean((0, 2)).tolist(), abs=1e-5)


def test_an_epoch_that_was_cut_short_is_over(script):
    """Lightning closes an epoch in which max_steps ends it; the next one starts at its start."""
    small = (*SMALL, "data.epoch_steps=8", "trainer.max_epochs=2", "logger=csv", "callbacks=default")
    small += ("trainer.log_every_n_steps=1", "optim.lr=1e-30", "optim=sgd")
    whole = script("train", *small, "trainer.limit_train_batches=3", folder="whole")
    half = script("train", *small, "trainer.max_steps=3", folder="half")
    ckpt = half.folder / "checkpoints" / "last.ckpt"
    rest = script("train", *small, "trainer.limit_train_batches=3", f"ckpt={ckpt}", folder="rest")
    losses = [
        [line.split(",")[2] for line in (run.folder / "metrics.csv").read_text().splitlines()[1:] if line.split(",")[2]]
        for run in (whole, half, rest)
    ]
    assert [len(part) for part in losses] == [6, 3, 3]
    assert losses[0] == losses[1] + losses[2]


def test_other_streams_start_afresh(script):
    half = script("train", *SMALL, "data.epoch_steps=6", "trainer.max_epochs=1", folder="half")
    ckpt = half.folder / "checkpoints" / "last.ckpt"
    more = script("train", *SMALL, "data.batch_size=4", "data.epoch_steps=6", "trainer.max_epochs=2", f"ckpt={ckpt}")
    assert more.last["global_step"] == 12


def test_fine_tuning_takes_weights_and_vocabulary(trained, script, tmp_path):
    _, ckpt = trained
    text = tmp_path / "mine.txt"
    text.write_text("def more(self):\n    return 42\n" * 100)
    mine = ("data=text", f"data.path={text}", f"init_from={ckpt}", "data.batch_size=2", "data.epoch_steps=4")
    tuned = script("train", *SMALL, *mine, "trainer.max_epochs=1", "optim.lr=1e-30", folder="tuned")
    before, after = (torch.load(path, weights_only=True) for path in (ckpt, tuned.folder / "checkpoints" / "last.ckpt"))
    assert after["hyper_parameters"]["spec"]["vocab"] == before["hyper_parameters"]["spec"]["vocab"]
    assert after["global_step"] == 4  # it starts afresh
    torch.testing.assert_close(after["state_dict"], before["state_dict"])
    resumed = script("train", *SMALL, *mine, "trainer.max_epochs=2", "optim.lr=1e-30",
                     f"ckpt={tuned.folder}/checkpoints/last.ckpt", folder="resumed")  # fmt: skip
    assert resumed.last["global_step"] == 8


def test_bytes(script, tmp_path):
    """Any file trains; no vocabulary is needed."""
    (tmp_path / "any.bin").write_bytes(np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes())
    small = (*SMALL, f"data.path={tmp_path}/any.bin", "data.unit=byte", "data.epoch_steps=5")
    trained = script("train", *small, "trainer.max_epochs=1")
    assert trained.metrics["test/loss"] == pytest.approx(math.log(256), abs=0.1)
    evaluated = script("evaluate", f"ckpt={trained.folder}/checkpoints/best.ckpt", "trainer=cpu", folder="evaluation")
    assert evaluated.metrics == trained.metrics


def test_samples_are_printed_and_logged(script):
    small = (*SMALL, "callbacks=default", "logger=tensorboard", "data.epoch_steps=5", "trainer.max_epochs=2")
    first = script("train", *small)
    sample = first.stdout.partition("at step 5:\n")[2].partition("\n\nstep ")[0]
    assert len(sample) >= 400
    assert "at step 10:" not in first.stdout  # the last is that of the best checkpoint
    assert "at step 5:\n" in (first.folder / "train.log").read_text()
    events = EventAccumulator(str(first.folder))
    events.Reload()
    shown = events.Tensors("sample/text_summary")[0].tensor_proto.string_val[0].decode()
    assert shown == "\n".join(f"    {line}" for line in sample.splitlines())  # Markdown leaves it as it is


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in (("b.txt", "b" * 50), ("a.txt", "a" * 50), ("sub/c.txt", "c" * 50), ("d.md", "d")):
        (tmp_path / name).write_text(text)
    data = text_data(tmp_path, batch_size=1, seq_len=5)
    assert data.spec.vocab == ("a", "b", "c")
    assert (len(data.splits["train"]), len(data.splits["val"])) == (135, 7)
    assert text_of(data) == "a" * 50 + "b" * 50 + "c" * 50


def test_the_standard_library_is_a_corpus(tmp_path):
    files = [path.as_posix() for path in PythonData(cache=str(tmp_path)).files()]
    assert any(path.endswith("/argparse.py") for path in files)
    assert not any("site-packages" in path or "/test/" in path for path in files)
    assert sum(Path(path).stat().st_size for path in files) > 5e6


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (None, {}, ["there is no such file"]),
        (b"", {}, ["is empty"]),
        (b"a" * 71, {}, ["too short, 71 characters", "4 streams", "data.seq_len=16"]),
        (b"a" * 100, {"split": (0.99, 0.01, 0)}, ["too short, 100 characters"]),
    ],
    ids=["missing", "empty", "short", "short for validation"],
)
def test_texts_that_cannot_be_used(content, settings, words, tmp_path):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        text_data(path, **settings)
    assert f"data.path={path}" in str(raised.value)
    assert all(word in str(raised.value) for word in words), raised.value
    path.write_text("a" * 74)  # the shortest text that is long enough
    assert [len(batches) for batches in text_data(path).splits.values()] == [67, 3, 4]


def test_a_folder_without_texts(tmp_path):
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(UserError, match=r"data\.pattern=\*\.txt"):
        text_data(tmp_path, pattern="*.txt")


def test_a_small_text_is_evaluated_whole(trained, script, tmp_path):
    (tmp_path / "small.txt").write_text("def f(x): return x\n" * 5)
    small = (f"data.path={tmp_path}/small.txt", "data.split=[0,0,1]")
    whole = script("evaluate", f"ckpt={trained[1]}", "trainer=cpu", *small)
    nats, _ = network_of(trained[1])("def f(x): return x\n" * 5)
    assert whole.metrics["test/loss"] == pytest.approx(nats.mean().item(), abs=1e-5)


def test_errors_reach_the_user(script, tmp_path, trained):
    (tmp_path / "short.txt").write_text("a" * 2000)
    many = script(
        "train", *SMALL, f"data.path={tmp_path}/short.txt", "data.batch_size=32", "trainer=ddp_cpu", check=False
    )
    assert many.returncode == 1
    assert re.fullmatch(r"Error: .*2,000 characters, .* 64 streams .*\.\n", many.stderr)
    others = ("cell=gru", "cell.hidden_size=17", "model.embedding=5")
    other = script("train", *SMALL, f"init_from={trained[1]}", *others, check=False)
    assert other.returncode == 1
    assert other.stderr.startswith(f"Error: init_from={trained[1]} does not fit this run: ")
    for what in ("cell._target_ is torch.nn.GRU here and", "cell.hidden_size is 17 here and 16", "embedding is 5 here"):
        assert what in other.stderr
    assert other.stderr.count("\n") == 1


def test_a_text_with_the_same_number_of_other_characters_is_another_text(script, tmp_path):
    (tmp_path / "ab.txt").write_text("ab" * 500)
    (tmp_path / "xy.txt").write_text("xy" * 500)
    small = (*SMALL, "data.batch_size=1", "data.epoch_steps=2")
    first = script("train", *small, f"data.path={tmp_path}/ab.txt", "trainer.max_epochs=1")
    ckpt = first.folder / "checkpoints" / "last.ckpt"
    other = script("train", *small, f"data.path={tmp_path}/xy.txt", "trainer.max_epochs=2", f"ckpt={ckpt}", check=False)
    assert other.returncode == 1
    assert "spec.vocab is ['x', 'y'] here and ['a', 'b'] there" in other.stderr
    assert "init_from=PATH" in other.stderr
    tested = script("evaluate", f"ckpt={ckpt}", f"data.path={tmp_path}/xy.txt", folder="evaluation", check=False)
    assert "vocabulary 'ab' lacks: 'xy'" in tested.stderr
