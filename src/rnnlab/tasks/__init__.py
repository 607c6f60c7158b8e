"""LightningModules: networks with their losses, metrics and figures; callbacks and trainers are in `training`."""
