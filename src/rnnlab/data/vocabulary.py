"""Characters or bytes, and their token indices."""

import codecs
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rnnlab.utils.errors import require

UNKNOWN = "\ufffd"  # in a vocabulary, it stands for every character that the vocabulary lacks


class Vocabulary:
    """Turns text into token indices and back; without characters, tokens are the 256 bytes of UTF-8."""

    def __init__(self, characters: Sequence[str] = ()):
        self.characters = tuple(characters)
        self.unknown = self.characters.index(UNKNOWN) if UNKNOWN in self.characters else None

    def __len__(self) -> int:
        return len(self.characters) or 256

    def encode(self, text: str, what: str) -> np.ndarray:
        """The index of every character of `text`, or of every byte of its UTF-8, as int64; `what` is for messages."""
        if not self.characters:
            raw = text.encode("utf-8", "surrogateescape")  # bytes of the command line that are not UTF-8
            return np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
        table = np.full(0x110000, -1 if self.unknown is None else self.unknown)
        table[code_points("".join(self.characters))] = np.arange(len(self))
        tokens = table[code_points(text)]
        missing = "".join(dict.fromkeys(text[index] for index in np.flatnonzero(tokens < 0)))
        known = "".join(self.characters)
        require(not missing, f"{what} has characters that the model's vocabulary {known!r} lacks: {missing!r}.")
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become the replacement character."""
        return "".join(self.iterdecode(tokens))

    def iterdecode(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens as they come; bytes wait until their character is complete."""
        if self.characters:
            return (self.characters[token] for token in tokens)
        return codecs.iterdecode((bytes([token]) for token in tokens), "utf-8", "replace")


def code_points(text: str) -> np.ndarray:
    """The code point of every character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
