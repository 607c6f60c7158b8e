"""LightningDataModules, samplers and file readers; nothing here depends on networks."""
