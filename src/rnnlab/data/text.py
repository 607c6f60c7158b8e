"""Text, read by truncated backpropagation through time."""

import math
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from rnnlab.data.base import SequenceData, Split
from rnnlab.data.batch import Batch
from rnnlab.data.corpus import Corpus, Unit, open_corpus
from rnnlab.data.samplers import TrainBatches
from rnnlab.data.spec import IGNORED, SequenceSpec
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import locate, open_file

WARM_UP = 512  # characters that a stream of validation reads before its first prediction counts
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # in the order of the text
LISTED = 40  # characters that a message names
MANY_SIGNS = 10_000  # in one vocabulary, above which a text has most likely been decoded wrongly


class Cut(NamedTuple):
    """Where a batch is to be cut out of a text.

    - `starts`: (batch,) positions of the first character of each sequence.
    - `steps`: length of each sequence.
    - `goes_on`: whether each sequence begins where that of the batch before ended.
    - `counts_from`: (batch,) positions; predictions made before them do not count. `None`: all count.
    """

    starts: np.ndarray
    steps: int
    goes_on: bool
    counts_from: np.ndarray | None = None


class Pieces(Dataset):
    """Sequences of a text and their successors, cut out when asked for.

    Indexing with a `Cut` gives a `Batch` of x and y, (batch, steps) int64, y one character ahead of x.

    **Arguments:**

    - `tokens`: (characters,) of the text.
    - `size`: of the vocabulary, which tells a file of tokens that was damaged; `None` does not look.
    """

    def __init__(self, tokens: np.ndarray, size: int | None = None):
        self.tokens = tokens
        self.size = size

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, cut: Cut) -> Batch:
        positions = cut.starts[:, None] + np.arange(cut.steps + 1)
        piece = self.tokens[positions].astype(np.int64)
        if self.size is not None and piece.max() >= self.size:
            raise UserError(f"{self.tokens.filename} is damaged: delete it.")  # type: ignore[attr-defined]
        x, y = piece[:, :-1], piece[:, 1:].copy()
        if cut.counts_from is not None:
            y[positions[:, :-1] < cut.counts_from[:, None]] = IGNORED
        return Batch(torch.from_numpy(x), torch.from_numpy(y), carry_state=cut.goes_on)


class TrainStreams(TrainBatches):
    """The training text as parallel streams, which are read side by side, one piece after the other.

    Stream s of a pass over the text begins at s / streams of it, moved on by a few characters that are drawn for each
    pass, so that pieces do not always begin at the same places and what no piece fits in at the end is another part.
    An epoch goes on where the one before ended; at the end of a pass all streams start afresh.

    **Arguments:**

    - `size`: characters of the text.
    - `streams`: sequences of a batch, all ranks together; rank r reads every `world_size`-th of them from the r-th.
    - `seq_len`: characters of a piece: gradients reach back no further.
    - `steps`: batches of an epoch; `None` is one pass.
    - `seed`: of the first characters.
    - `rank`, `world_size`: which streams to yield.
    """

    def __init__(
        self, size: int, streams: int, seq_len: int, steps: int | None, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.length = (size - 1) // streams
        self.pass_steps, self.spare = divmod(self.length, seq_len)
        super().__init__(steps or self.pass_steps, seed)
        self.seq_len = seq_len
        self.starts = self.length * np.arange(streams)[rank::world_size]
        self.next = 0  # the batch of the run that goes on where the last one ended
        self.same = [size, streams, seq_len, self.steps, seed, world_size]  # runs that read the same streams

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "next": self.next, "same": self.same}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.next = state["next"] if state.get("same") == self.same else -1

    def read(self, position: int) -> Iterator[Cut]:
        begin = self.epoch * self.steps
        turn = -1
        for batch in range(begin + position, begin + self.steps):
            if turn != batch // self.pass_steps:
                turn = batch // self.pass_steps
                shift = np.random.default_rng((self.seed, turn)).integers(self.spare + 1)
            step = batch % self.pass_steps
            goes_on = step > 0 and batch == self.next  # not where an epoch was cut short
            self.next = batch + 1
            yield Cut(self.starts + shift + step * self.seq_len, self.seq_len, goes_on)


class WholeText(Sampler[Cut]):
    """Every prediction in a text, once, as if it were read in one go, but by parallel streams.

    The first stream starts at the beginning of the text; each other reads the end of the one before it, some `WARM_UP`
    characters, before its own predictions count, and so enters them with the state that it would have had, as far as a
    network forgets what is longer ago: for trained networks the mean loss agrees to 1e-6, for any with one stream.
    All streams are equally long, which is why the first has more predictions than the others. A short text is one.

    **Arguments:**

    - `size`: characters; there are size - 1 predictions.
    - `streams`: at most so many sequences a batch, on each rank.
    - `seq_len`: characters of a piece; the sum over all pieces does not depend on it.
    - `rank`, `world_size`: which streams to yield. A text too short to be shared is read whole by each rank.
    """

    def __init__(self, size: int, streams: int, seq_len: int, rank: int = 0, world_size: int = 1):
        predictions = size - 1
        streams = max(1, min(streams * world_size, predictions // (4 * WARM_UP)))
        if streams < world_size:
            rank, world_size = 0, 1
        streams -= streams % world_size
        self.length = math.ceil((predictions + (streams - 1) * WARM_UP) / streams)
        share = np.arange(streams) / max(1, streams - 1)
        ends = self.length + (share * (predictions - self.length)).round().astype(int)
        counts_from = np.concatenate(([0], ends[:-1]))
        mine = slice(rank * streams // world_size, (rank + 1) * streams // world_size)
        self.starts, self.counts_from = (ends - self.length)[mine], counts_from[mine]
        self.seq_len = seq_len

    def __len__(self) -> int:
        return math.ceil(self.length / self.seq_len)

    def __iter__(self) -> Iterator[Cut]:
        for done in range(0, self.length, self.seq_len):
            steps = min(self.seq_len, self.length - done)
            yield Cut(self.starts + done, steps, done > 0, self.counts_from)


class TextData(SequenceData):
    """A text file, or every file of a folder one after the other, to be continued sign by sign.

    The text is split by position, training part first. Training reads it in `batch_size` parallel streams, `seq_len`
    signs at a time, and tells the task when the state of a batch goes on with the next (Williams & Peng 1990, truncated
    backpropagation through time); validation and test predict each sign of their part but the first, once.

    **Arguments:**

    - `path`: a file or folder.
    - `pattern`: which files of a folder, at any depth.
    - `unit`: `"char"` for the characters of UTF-8, `"byte"` for any file.
    - `min_count`: characters that appear less often become the unknown sign, U+FFFD.
    - `split`: shares of training, validation and test part; the last two may be 0.
    - `seq_len`: signs that a gradient reaches back.
    - `batch_size`: streams, per device.
    - `epoch_steps`: see `SequenceData`.
    - `cache`: folder for the encoded text; `None` is `rnnlab` in the user's cache folder.

    **Raises:** `UserError` for a path without text, a text too short for these settings, or one that does not fit the
    vocabulary of a spec set beforehand.
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
        require(str(path) != "", "data.path= is empty: give a file or a folder.")
        self.path = locate(path)
        self.pattern = str(pattern)
        self.unit = unit
        self.min_count = min_count
        self.split = tuple(split)
        self.seq_len = seq_len
        self.called = f"data.path={self.path}"
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self.cache = locate(cache or f"{caches}/rnnlab")

    def files(self) -> list[Path]:
        """The files of the text, in a fixed order."""
        if not os.path.isdir(self.path):
            open_file(self.path, self.called).close()
            return [self.path]
        try:
            found = sorted(path for path in self.path.rglob(self.pattern) if path.is_file())
        except (ValueError, NotImplementedError, OSError, IndexError) as error:
            raise UserError(f"data.pattern={self.pattern}: {error}. Use one such as '*.txt'.") from error
        require(
            bool(found),
            f"{self.called} has no files that match data.pattern={self.pattern}. Name the files that you want, "
            "for example data.pattern='*.md'.",
        )
        return found

    def prepare_data(self) -> None:
        self._open()

    def make(self) -> dict[Split, Dataset]:
        corpus = self._open()
        signs = corpus.vocabulary.signs
        if self.spec is None:
            self.spec = SequenceSpec("tokens", len(corpus.vocabulary), len(corpus.vocabulary), self.seq_len, signs)
            if len(signs) > MANY_SIGNS:
                tell(
                    f"Warning: {self.called} has {len(signs):,} different characters. Is it text in another encoding? "
                    "data.min_count=10 folds rare characters into one, data.unit=byte needs no vocabulary."
                )
        borders = [0, *(round(sum(self.split[: k + 1]) * len(corpus.tokens)) for k in range(3))]
        parts: dict[Split, Dataset] = {}
        for k, split in enumerate(SPLITS):
            if self.split[k]:
                parts[split] = Pieces(corpus.tokens[borders[k] : borders[k + 1]], len(corpus.vocabulary))
                require(borders[k + 1] - borders[k] >= 2, self._too_short(len(corpus.tokens)))
                self._tell_unseen(corpus, split, borders)
        return parts

    def example(self, size: int) -> Batch:
        """The beginning of the validation part, or of another if there is none, as one batch of `size` sequences."""
        text: Any = next(self.splits[split] for split in ("val", "test", "train") if split in self.splits)
        steps = min(self.seq_len, len(text) - 1)
        return text[Cut(np.arange(size) * steps % (len(text) - steps), steps, False)]

    def batches(self, split: Split, rank: int, world_size: int) -> Sampler:
        require(split in self.splits, f"data.split={list(self.split)} leaves nothing to train on.")
        size = len(self.splits[split])  # type: ignore[arg-type]
        if split != "train":
            return WholeText(size, self.batch_size, self.seq_len, rank, world_size)
        streams = self.batch_size * world_size
        total = sum(map(len, self.splits.values()))  # type: ignore[arg-type]
        require((size - 1) // streams >= self.seq_len, self._too_short(total, world_size))
        return TrainStreams(size, streams, self.seq_len, self.epoch_steps, self.run_seed, rank, world_size)

    def _open(self) -> Corpus:
        vocabulary = Vocabulary(self.spec.vocab) if self.spec and self.spec.vocab else None
        unit: Unit = self.unit if self.spec is None else "char" if self.spec.vocab else "byte"
        files = self.files()
        name = f"{self.path.resolve()}/{self.pattern}"
        return open_corpus(files, name, unit, self.min_count, vocabulary, self.cache, self.called)

    def _too_short(self, length: int, world_size: int = 1) -> str:
        needed = [self.batch_size * world_size * self.seq_len + 1, 2, 2]
        least = max(math.ceil(need / share) for share, need in zip(self.split, needed, strict=True) if share)
        processes = f" in each of {world_size} processes" if world_size > 1 else ""
        return (
            f"{self.called} is too short, {length:,} characters: data.batch_size={self.batch_size} streams of "
            f"data.seq_len={self.seq_len}{processes} and data.split={list(self.split)} need {least:,}."
        )

    def _tell_unseen(self, corpus: Corpus, split: Split, borders: list[int]) -> None:
        """Say which characters of a part the training part lacks."""
        begin, end = borders[SPLITS.index(split) :][:2]
        unseen = np.flatnonzero(corpus.first >= borders[1])
        if self.split[0] and len(unseen):
            pieces, size = np.array_split(corpus.tokens[begin:end], 100), len(corpus.first)
            counts: Any = sum(np.bincount(piece, minlength=size)[:size] for piece in pieces)
            found = counts[unseen]
            unseen = unseen[found > 0]
            some = unseen[:LISTED]
            signs = "".join(corpus.vocabulary.signs[sign] for sign in some) if corpus.vocabulary.signs else some
            more = " and more" if len(unseen) > LISTED else ""
            if len(unseen):
                tell(
                    f"The {split} part of {self.called} has {len(unseen)} characters that the training part lacks, "
                    f"{found.sum():,} times in all: {signs!r}{more}."
                )


class PythonData(TextData):
    """The source of the running interpreter's standard library: real text that every machine has.

    All modules in alphabetical order, without tests and installed packages. Arguments as for `TextData`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(sysconfig.get_path("stdlib"), "*.py", **kwargs)
        self.called = "data=python"

    def files(self) -> list[Path]:
        others = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
        return [path for path in super().files() if not others.intersection(path.relative_to(self.path).parts)]
