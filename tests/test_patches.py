"""The private part of Lightning whose change no behaviour shows, only speed, is still there and in use."""

import inspect

import lightning.pytorch as pl
from lightning.pytorch.trainer import call

from rnnlab.training import lightning_patches


def test_the_name_of_the_current_hook_is_an_attribute_of_the_module():
    lightning_patches.speed_up_hooks()
    module = pl.LightningModule()
    module._current_fx_name = "training_step"
    module.part = pl.LightningModule()  # what else is set goes the usual way
    assert module.__dict__["_current_fx_name"] == "training_step"
    assert [*module._modules] == ["part"]
    assert "pl_module._current_fx_name = hook_name" in inspect.getsource(call._call_lightning_module_hook)
