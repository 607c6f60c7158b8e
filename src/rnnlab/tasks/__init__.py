"""LightningModules: what a batch means."""
