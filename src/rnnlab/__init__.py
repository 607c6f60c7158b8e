"""Experiments with recurrent networks: a task x a dataset x a cell x a trainer."""
