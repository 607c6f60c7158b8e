import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.text import Perplexity

from rnnlab.data.batch import Batch
from rnnlab.tasks.char import CharModel
from rnnlab.tasks.classifier import SequenceClassifier
from rnnlab.tasks.metrics import MeanLoss
from rnnlab.tasks.regressor import SequenceRegressor
from rnnlab.training.optim import warmup_cosine

CELL = {"_target_": "torch.nn.GRU", "hidden_size": 6, "bidirectional": False}


def measured(task, batches):
    """The scores that the task reports for these batches."""
    scores = {}
    task.eval()
    task.log_dict = lambda values, **_: scores.update(values)
    with torch.no_grad():
        for index, batch in enumerate(batches):
            task.validation_step(Batch(*batch), index)
        task.on_validation_epoch_end()
    return scores


def spec(kind, inputs, outputs):
    return {"kind": kind, "input_size": inputs, "output_size": outputs, "seq_len": 7, "vocab": tuple("abcd")}


def test_char_scores_are_exact_over_uneven_batches():
    task = CharModel(CELL, {}, spec("tokens", 4, 4))
    x, y = torch.randint(4, (7, 9)), torch.randint(4, (7, 9))
    scores = measured(task, [(x[:5], y[:5]), (x[5:], y[5:])])
    with torch.no_grad():
        out, _ = task(x)
    nats = -out.log_softmax(-1).gather(-1, y[..., None]).mean().item()
    assert scores["val/loss"] == pytest.approx(nats, rel=1e-6)
    assert scores["val/bits_per_character"] == pytest.approx(nats / math.log(2), rel=1e-6)
    assert scores["val/perplexity"] == pytest.approx(Perplexity()(out, y).item(), rel=1e-5)
    assert scores["val/accuracy"] == pytest.approx((out.argmax(-1) == y).float().mean().item())


def test_label_smoothing_is_for_training_only():
    smooth, plain = (CharModel(CELL, {}, spec("tokens", 4, 4), label_smoothing=share) for share in (0.2, 0.0))
    plain.load_state_dict(smooth.state_dict())
    batch = torch.randint(4, (7, 9)), torch.randint(4, (7, 9))
    log_p = smooth(batch[0])[0].log_softmax(-1)
    target = 0.8 * F.one_hot(batch[1], 4) + 0.2 / 4
    torch.testing.assert_close(smooth.training_step(Batch(*batch), 0), -(target * log_p).sum(-1).mean())
    assert measured(smooth, [batch]) == measured(plain, [batch])


def test_classifier_scores():
    task = SequenceClassifier(CELL, {}, spec("labels", 5, 3))
    x, y = torch.randn(40, 7, 5), torch.randint(3, (40,))
    scores = measured(task, [(x[:32], y[:32]), (x[32:], y[32:])])
    with torch.no_grad():
        guess = task(x)[0].argmax(-1)
        loss = F.cross_entropy(task(x)[0], y).item()
    per_class = []
    for label in range(3):
        hits = ((guess == label) & (y == label)).sum()
        per_class.append(2 * hits / ((guess == label).sum() + (y == label).sum()))
    assert scores["val/loss"] == pytest.approx(loss, rel=1e-6)
    assert scores["val/accuracy"] == pytest.approx((guess == y).float().mean().item())
    assert scores["val/f1"] == pytest.approx(torch.stack(per_class).mean().item(), rel=1e-6)


def test_regressor_scores():
    task = SequenceRegressor(CELL, {}, spec("values", 5, 2))
    x, y = torch.randn(40, 7, 5), torch.randn(40, 2)
    scores = measured(task, [(x[:32], y[:32]), (x[32:], y[32:])])
    with torch.no_grad():
        error = task(x)[0] - y
    r2 = 1 - error.square().sum(0) / (y - y.mean(0)).square().sum(0)
    expected = {"loss": error.square().mean(), "mae": error.abs().mean(), "r2": r2.mean()}
    assert scores == pytest.approx({f"val/{name}": score.item() for name, score in expected.items()}, rel=1e-5)


def test_the_mean_loss_of_a_long_text_is_exact():
    loss = MeanLoss()
    generator = torch.Generator().manual_seed(0)
    totals = 2048 * (1.4 + 0.1 * torch.randn(26_000, generator=generator))
    for total in totals:
        loss.update(total, 2048)
    assert loss.compute().item() == pytest.approx(totals.double().sum().item() / (2048 * 26_000), rel=2e-7)


def test_a_loss_that_is_not_a_number_shows_in_the_mean():
    loss = MeanLoss()
    loss.update(torch.tensor(3.0), 3)
    loss.update(torch.tensor(float("nan")), 1)
    assert math.isnan(loss.compute())


def test_warmup_cosine():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps=100, warmup=0.1, final=0.05)
    rates = []
    for _ in range(120):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.05 + 0.95 / 2))
    assert rates[100] == rates[119] == pytest.approx(0.1)
