"""Sampling of tokens from a network that predicts the next one."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rnnlab.nn.rnn import SimpleRNN


def probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Distribution of the next token: softmax(logits / temperature), truncated to the most likely tokens.

    **Arguments:**

    - `logits`: (batch, tokens).
    - `temperature`: above 0; below 1 makes likely tokens likelier.
    - `top_k`: number of tokens to keep (Fan et al. 2018); 0: all, 1: greedy.
    - `top_p`: then keep the most likely tokens that together have this probability (Holtzman et al. 2020).

    **Returns:** (batch, tokens), each row of sum 1.
    """
    scaled = (logits - logits.max(-1, keepdim=True).values) / temperature  # no overflow at low temperatures
    if 0 < top_k < logits.shape[-1]:
        kept = logits.topk(top_k).indices
        scaled = torch.full_like(scaled, -torch.inf).scatter(-1, kept, scaled.gather(-1, kept))
    chances = scaled.softmax(-1)
    if top_p < 1:
        ordered, order = chances.sort(descending=True, stable=True)
        excluded = ordered.cumsum(-1) - ordered >= top_p  # more likely tokens reach top_p
        excluded[:, 0] = False
        chances = torch.zeros_like(chances).scatter(-1, order, ordered.masked_fill(excluded, 0))
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
    """Read a prompt, then sample one token after the other.

    **Arguments:**

    - `network`: in evaluation mode.
    - `prompt`: (batch, time) tokens, one or more for each sequence.
    - `length`: tokens to add, sampled from `probabilities`.
    - `never`: a token that is never sampled.

    **Returns:** an iterator over (batch,) tokens.
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
