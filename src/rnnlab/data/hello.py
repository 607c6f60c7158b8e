"""One word or sentence, continued character by character."""

import torch
from torch.utils.data import Dataset

from rnnlab.data.base import SequenceData, Split, TensorBatches
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.utils.errors import require


class HelloData(SequenceData):
    """The characters of a text and the characters that follow them: `"hell"` -> `"ello"`.

    x and y are (1, len(text) - 1) token indices. All three splits are this one sequence, which shows whether a network
    can learn at all, not whether it generalises.
    """

    kinds = ("tokens",)

    def __init__(self, text: str = "hello", batch_size: int = 1, epoch_steps: int | None = 100):
        super().__init__(batch_size, epoch_steps)
        self.text = str(text)  # data.text=1234 is parsed as a number
        require(
            len(self.text) >= 2,
            f"data.text={self.text!r} is too short: the network predicts the next character, so give two or more.",
        )

    def make(self) -> dict[Split, Dataset]:
        if self.spec is None:
            vocab = tuple(dict.fromkeys(self.text))
            self.spec = SequenceSpec("tokens", len(vocab), len(vocab), len(self.text) - 1, vocab)
        tokens = torch.from_numpy(Vocabulary(self.spec.vocab).encode(self.text, "data.text"))[None]
        sequence = TensorBatches(tokens[:, :-1], tokens[:, 1:])
        return {"train": sequence, "val": sequence, "test": sequence}
