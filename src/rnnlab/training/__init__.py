"""One run: trainer, checkpoints, callbacks, loggers, processes; several runs are in `sweeps`."""
