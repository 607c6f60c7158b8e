"""Texts of one's own, and the source of the standard library."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.corpus import Corpus, Unit, open_corpus
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.streams import BatchSlices, StatefulEvalBatches, StatefulTrainBatches, TextBatches
from rnnlab.data.vocabulary import UNKNOWN, Vocabulary
from rnnlab.utils.errors import require
from rnnlab.utils.files import locate, reading

SPLITS: tuple[Split, ...] = ("train", "val", "test")  # in the order of the text


class TextData(SequenceData):
    """A text file, or every file of a folder one after the other, for models that predict the next character.

    The text is split by position. Training reads stateful batches (truncated BPTT, Williams & Peng 1990); validation
    and test predict each character of their split but the first, once.

    **Arguments:** see `conf/data/text.yaml`.
    """

    kinds = ("tokens",)

    def __init__(
        self,
        path: str,
        pattern: str = "*.txt",
        unit: Unit = "char",
        min_count: int = 1,
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        seq_len: int = 64,
        batch_size: int = 32,
        epoch_steps: int | None = 500,
        cache: str | None = None,
    ):
        super().__init__(batch_size, epoch_steps)
        self.path = locate(path)
        self.pattern = pattern
        self.unit = unit
        self.min_count = min_count
        self.split = tuple(split)
        self.seq_len = seq_len
        self.label = f"data.path={self.path}"  # in messages
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self.cache = locate(cache or f"{caches}/rnnlab")

    def files(self) -> list[Path]:
        """The files of the text, in a fixed order."""
        if not self.path.is_dir():
            return [self.path]
        with reading(f"data.pattern={self.pattern}"):
            found = sorted(path for path in self.path.rglob(self.pattern) if path.is_file())
        require(bool(found), f"{self.label} has no files that match data.pattern={self.pattern}.")
        return found

    def prepare_data(self) -> None:
        self._open()

    def make(self) -> dict[Split, Dataset]:
        corpus = self._open()
        if self.spec is None:
            vocabulary = Vocabulary(self._characters(corpus))
            size = len(vocabulary)
            self.spec = SequenceSpec("tokens", size, size, self.seq_len, vocabulary.characters)
        table = np.arange(256)  # from indices of the corpus to those of the model
        if self.spec.vocab:
            table = Vocabulary(self.spec.vocab).encode(corpus.characters, self.label)
        length = len(corpus.tokens)
        ends = [round(sum(self.split[: k + 1]) * length) for k in range(3)]
        splits: dict[Split, Dataset] = {}
        for split, share, begin, end in zip(SPLITS, self.split, [0, *ends], ends, strict=False):
            if share:
                require(end - begin >= 2, self._too_short(length))
                splits[split] = TextBatches(corpus.tokens[begin:end], table)
        return splits

    def example(self, size: int) -> Batch:
        """The beginning of the validation split, or of another if there is none, as one batch of `size` sequences."""
        text: Any = next(self.splits[split] for split in ("val", "test", "train") if split in self.splits)
        steps = min(self.seq_len, len(text) - 1)
        return text[BatchSlices(np.arange(size) * steps % (len(text) - steps), steps, False)]

    def batches(self, split: Split, rank: int, world_size: int) -> Sampler:
        require(split in self.splits, f"data.split={list(self.split)} leaves nothing to train on.")
        size = len(self.splits[split])  # type: ignore[arg-type]
        if split != "train":
            return StatefulEvalBatches(size, self.batch_size, self.seq_len, rank, world_size)
        streams = self.batch_size * world_size
        total = sum(map(len, self.splits.values()))  # type: ignore[arg-type]
        require((size - 1) // streams >= self.seq_len, self._too_short(total, world_size))
        return StatefulTrainBatches(size, streams, self.seq_len, self.epoch_steps, self.run_seed, rank, world_size)

    def _open(self) -> Corpus:
        unit: Unit = self.unit if self.spec is None else "char" if self.spec.vocab else "byte"
        return open_corpus(self.files(), f"{self.path.resolve()}/{self.pattern}", unit, self.cache, self.label)

    def _characters(self, corpus: Corpus) -> tuple[str, ...]:
        """The characters that appear often enough, and the unknown character if others do not."""
        pairs = zip(corpus.characters, corpus.counts, strict=False)  # none for bytes
        common = {character for character, count in pairs if count >= self.min_count}
        if len(common) == len(corpus.characters):
            return tuple(corpus.characters)
        require(bool(common), f"{self.label}: no character appears data.min_count={self.min_count} times.")
        return tuple(sorted(common | {UNKNOWN}))

    def _too_short(self, length: int, world_size: int = 1) -> str:
        return (
            f"{self.label} is too short, {length:,} characters, for data.split={list(self.split)} and "
            f"{self.batch_size * world_size} streams (data.batch_size x processes) of data.seq_len={self.seq_len}."
        )


class PythonData(TextData):
    """The running interpreter's standard library, without tests and installed packages; arguments as of `TextData`."""

    def __init__(self, **kwargs: Any):
        super().__init__(sysconfig.get_path("stdlib"), "*.py", **kwargs)
        self.label = "data=python"

    def files(self) -> list[Path]:
        others = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
        return [path for path in super().files() if not others.intersection(path.relative_to(self.path).parts)]
