"""Models, optimizers, schedulers and the handles of hooks of torch."""

from __future__ import annotations

from ..device.training import reduce_handle, reduce_module, reduce_optimizer, reduce_scheduler
from .registry import rule

rule("torch.nn.modules.module.Module")(reduce_module)
rule("torch.optim.optimizer.Optimizer")(reduce_optimizer)
rule("torch.optim.lr_scheduler.LRScheduler")(reduce_scheduler)
rule("torch.utils.hooks.RemovableHandle")(reduce_handle)
