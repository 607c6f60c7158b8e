"""Parallel streams of a text as stateful batches, for truncated backpropagation through time."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from rnnlab.data.batch import Batch
from rnnlab.data.samplers import TrainBatches
from rnnlab.data.spec import IGNORED

BURN_IN = 512  # characters that a stream of validation reads before its first prediction counts


class BatchSlices(NamedTuple):
    """Where the sequences of a batch stand in a text."""

    starts: np.ndarray  # (batch,) positions of their first characters
    steps: int
    carry_state: bool  # see `Batch`
    scored_from: np.ndarray | None = None  # (batch,) predictions at earlier positions do not count


class TextBatches(Dataset):
    """A text, of which `BatchSlices` give a `Batch` of x and y, (batch, steps) int64, y one character ahead of x.

    **Arguments:** (length,) tokens of the text; a table with the model's index for each token, int64.
    """

    def __init__(self, tokens: np.ndarray, table: np.ndarray):
        self.tokens = tokens
        self.table = table

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, slices: BatchSlices) -> Batch:
        positions = slices.starts[:, None] + np.arange(slices.steps + 1)
        tokens = self.table[self.tokens[positions]]
        x, y = tokens[:, :-1], tokens[:, 1:].copy()
        if slices.scored_from is not None:
            y[positions[:, :-1] < slices.scored_from[:, None]] = IGNORED
        return Batch(torch.from_numpy(x), torch.from_numpy(y), carry_state=slices.carry_state)


class StatefulTrainBatches(TrainBatches):
    """The training text as parallel streams, each read sequence by sequence (truncated BPTT).

    Each pass over the text shifts the starts of the streams by a random number of characters, and starts with the
    initial state. An epoch continues where the previous one ended.

    **Arguments:**

    - `streams`: sequences of a batch, all ranks together; rank r reads every `world_size`-th of them from the r-th.
    - `steps`: batches of an epoch; `None` is one pass.
    """

    def __init__(
        self, size: int, streams: int, seq_len: int, steps: int | None, seed: int, rank: int = 0, world_size: int = 1
    ):
        length = (size - 1) // streams
        self.steps_per_pass, self.max_shift = divmod(length, seq_len)
        super().__init__(steps or self.steps_per_pass, seed)
        self.seq_len = seq_len
        self.starts = length * np.arange(streams)[rank::world_size]
        self.next_batch = 0  # of the run: the one that continues the last batch that was read
        self.settings = [size, streams, seq_len, self.steps, seed, world_size]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "next_batch": self.next_batch, "settings": self.settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.next_batch = state["next_batch"] if state.get("settings") == self.settings else -1

    def read(self, position: int) -> Iterator[BatchSlices]:
        first, end = self.epoch * self.steps + position, (self.epoch + 1) * self.steps
        for batch in range(first, end):
            number, step = divmod(batch, self.steps_per_pass)
            if step == 0 or batch == first:
                shift = np.random.default_rng((self.seed, number)).integers(self.max_shift + 1)
            carry_state = step > 0 and batch == self.next_batch  # not after an epoch that was cut short
            self.next_batch = batch + 1
            yield BatchSlices(self.starts + shift + step * self.seq_len, self.seq_len, carry_state)


class StatefulEvalBatches(Sampler[BatchSlices]):
    """Every prediction in a text, once, as if the text was read in one go, but by parallel streams.

    Each stream but the first reads `BURN_IN` characters before its own predictions, which brings it to the state that
    it would have had: the mean loss of a trained network agrees to 1e-6. All streams are equally long.

    **Arguments:**

    - `size`: characters; there are size - 1 predictions.
    - `streams`: sequences of a batch on each rank, fewer for a short text.
    - `rank`, `world_size`: which streams to yield. A text too short to be shared is read whole by each rank.
    """

    def __init__(self, size: int, streams: int, seq_len: int, rank: int = 0, world_size: int = 1):
        predictions = size - 1
        streams = max(1, min(streams * world_size, predictions // (4 * BURN_IN)))
        if streams < world_size:
            rank, world_size = 0, 1
        streams -= streams % world_size
        self.length = math.ceil((predictions + (streams - 1) * BURN_IN) / streams)
        share = np.arange(streams) / max(1, streams - 1)
        ends = self.length + (share * (predictions - self.length)).round().astype(int)
        scored_from = np.concatenate(([0], ends[:-1]))
        own = slice(rank * streams // world_size, (rank + 1) * streams // world_size)
        self.starts, self.scored_from = (ends - self.length)[own], scored_from[own]
        self.seq_len = seq_len

    def __len__(self) -> int:
        return math.ceil(self.length / self.seq_len)

    def __iter__(self) -> Iterator[BatchSlices]:
        for position in range(0, self.length, self.seq_len):
            steps = min(self.seq_len, self.length - position)
            yield BatchSlices(self.starts + position, steps, position > 0, self.scored_from)
