"""Each private part of Lightning that `training.lightning_patches` changes is still there, and still in use."""

import inspect

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call

from rnnlab.training import lightning_patches


@pytest.fixture
def trainer(tmp_path):
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)


def test_signal_handling_is_a_method_of_the_signal_connector_and_a_broadcast_of_the_loop(trainer):
    handlers, loop = trainer._signal_connector.register_signal_handlers, trainer.fit_loop.epoch_loop
    broadcast = loop._broadcast_sigterm_tensor
    lightning_patches.disable_signal_handling(trainer)
    assert trainer._signal_connector.register_signal_handlers != handlers
    assert loop._broadcast_sigterm_tensor != broadcast
    assert "self._signal_connector.register_signal_handlers()" in inspect.getsource(pl.Trainer._run)
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)


def test_schedulers_that_wait_for_a_metric_are_left_out_in_the_epoch_of_a_restart(trainer):
    trainer.fit_loop._restarting = True
    assert trainer.fit_loop.restarting
    lightning_patches.update_plateau_schedulers(trainer)
    assert not trainer.fit_loop.restarting
    assert "update_plateau_schedulers=not self.restarting" in inspect.getsource(_FitLoop.on_advance_end)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=5)
    trainer.fit_loop.restarting = False
    assert trainer.fit_loop.restarting  # why the public way is none


def test_the_name_of_the_current_hook_is_an_attribute_of_the_module():
    lightning_patches.speed_up_hooks()
    module = pl.LightningModule()
    module._current_fx_name = "training_step"
    module.part = pl.LightningModule()  # what else is set goes the usual way
    assert module.__dict__["_current_fx_name"] == "training_step"
    assert [*module._modules] == ["part"]
    assert "pl_module._current_fx_name = hook_name" in inspect.getsource(call._call_lightning_module_hook)
