"""Changes to Lightning that have no public way; each has a test that fails when Lightning changes."""

import lightning.pytorch as pl


def update_plateau_schedulers(trainer: pl.Trainer) -> None:
    """Let schedulers that wait for a metric take their step in the epoch in which a run resumes, too.

    Lightning leaves it out, since it does not restore the metrics; `BestAndLast` does. The public `restarting` of the
    loop cannot be set to false while steps limit the run.
    """
    trainer.fit_loop._restarting = False
