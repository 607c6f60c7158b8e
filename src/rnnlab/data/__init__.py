"""LightningDataModules, samplers and file readers; knows nothing of networks."""
