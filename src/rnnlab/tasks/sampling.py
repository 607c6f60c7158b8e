"""Writing text with a network that predicts the next token."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rnnlab.nn.rnn import SimpleRNN


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """What the next token is drawn from: softmax(logits / temperature), cut to the likeliest tokens.

    **Arguments:**

    - `logits`: (batch, tokens).
    - `temperature`: above 0; below 1 prefers what is likely.
    - `top_k`: keep only so many tokens (Fan et al. 2018); 0 keeps all, 1 is greedy.
    - `top_p`: of these keep the likeliest, until together they have this probability (Holtzman et al. 2020).

    **Returns:** (batch, tokens), each row of sum 1.
    """
    scaled = (logits - logits.max(-1, keepdim=True).values) / temperature  # no overflow, however cold
    if 0 < top_k < logits.shape[-1]:
        kept = logits.topk(top_k).indices
        scaled = torch.full_like(scaled, -torch.inf).scatter(-1, kept, scaled.gather(-1, kept))
    chances = scaled.softmax(-1)
    if top_p < 1:
        ordered, order = chances.sort(descending=True, stable=True)
        enough = ordered.cumsum(-1) - ordered >= top_p  # what those before it make up already
        enough[:, 0] = False
        chances = torch.zeros_like(chances).scatter(-1, order, ordered.masked_fill(enough, 0))
        chances /= chances.sum(-1, keepdim=True)
    return chances


@torch.inference_mode()
def write(
    network: SimpleRNN,
    prompt: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    never: int | None = None,
) -> Iterator[Tensor]:
    """Read a prompt, then draw one token after the other.

    **Arguments:**

    - `network`: in evaluation mode.
    - `prompt`: (batch, time) tokens, at least one each; every sequence is continued.
    - `length`: tokens to add.
    - `temperature`, `top_k`, `top_p`: see `probabilities`.
    - `generator`: of the random numbers.
    - `never`: a token that is not to be drawn.

    **Returns:** an iterator over (batch,) tokens, as they are drawn.
    """
    out, state = network(prompt)
    logits = out[:, -1]
    for _ in range(length):
        if never is not None:
            logits[:, never] = -torch.inf
        chances = probabilities(logits, temperature, top_k, top_p)
        token = torch.multinomial(chances, 1, generator=generator)[:, 0]
        yield token
        logits, state = network.step(token, state)
