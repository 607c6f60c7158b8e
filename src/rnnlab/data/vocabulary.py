"""Signs and their indices."""

import codecs
from collections.abc import Sequence

import numpy as np

from rnnlab.utils.errors import require

UNKNOWN = "\ufffd"  # where a vocabulary holds it, it stands for every sign that the vocabulary lacks


class Vocabulary:
    """Turns text into token indices and back.

        >>> vocabulary = Vocabulary("helo")
        >>> vocabulary.encode("hello", "data.text").tolist()
        [0, 1, 2, 2, 3]
        >>> vocabulary.decode([0, 1])
        'he'

    **Arguments:**

    - `signs`: one character for each index. Without any, tokens are the 256 bytes of UTF-8.
    """

    def __init__(self, signs: Sequence[str] = ()):
        self.signs = tuple(signs)
        self.codes = np.array([ord(sign) for sign in self.signs], dtype=np.int64)
        self.unknown = self.signs.index(UNKNOWN) if UNKNOWN in self.signs else None

    def __len__(self) -> int:
        return len(self.signs) or 256

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest type that holds every index."""
        return np.uint8 if len(self) <= 2**8 else np.uint16 if len(self) <= 2**16 else np.uint32

    def lookup(self) -> np.ndarray:
        """The index of every code point; of those that the vocabulary lacks the unknown sign's, or `len(self)`."""
        missing = len(self) if self.unknown is None else self.unknown
        table = np.full(0x110000, missing, dtype=np.uint32)
        table[self.codes] = np.arange(len(self.codes))
        return table

    def encode(self, text: str, what: str) -> np.ndarray:
        """The index of every character of `text`, or of every byte of its UTF-8, as int64.

        **Raises:** `UserError` that names the characters which the vocabulary lacks and `what` the text is.
        """
        if not self.signs:
            raw = text.encode("utf-8", "surrogateescape")  # bytes of the command line that are not UTF-8
            return np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
        if self.unknown is None:
            known = set(self.signs)
            missing = "".join(sign for sign in dict.fromkeys(text) if sign not in known)
            require(
                not missing,
                f"{what} has characters that the model's vocabulary {''.join(self.signs)!r} lacks: {missing!r}.",
            )
        return self.lookup()[code_points(text)].astype(np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are not UTF-8 become the replacement character."""
        return Decoder(self)(tokens, final=True)


class Decoder:
    """Decodes tokens as they come: bytes wait until their character is complete."""

    def __init__(self, vocabulary: Vocabulary):
        self.signs = vocabulary.signs
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, tokens: Sequence[int], final: bool = False) -> str:
        if self.signs:
            return "".join(self.signs[token] for token in tokens)
        return self.utf8.decode(bytes(tokens), final)


def code_points(text: str) -> np.ndarray:
    """The code point of every character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
