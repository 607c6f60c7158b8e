"""LightningDataModules: where sequences come from."""
