"""LightningModules: a network with its loss, metrics and figures; how it is trained is in `training`."""
