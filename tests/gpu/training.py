"""A training run as a notebook has it, in a process of its own, from one step to another.

``python -c PROGRAM '{"folder": ..., "start": ID or "", "until": STEP}'`` prints what came out as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

#: Nothing but ``__import__`` in the namespace of the notebook that is not its own.
PROGRAM = "__import__('tests.gpu.training', fromlist=['main']).main()"
KEY = b"0123456789abcdef0123456789abcdef"

CELLS = """
import torch
from torch import nn

torch.manual_seed(7)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(32, 256), nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.3),
            nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10),
        )

    def forward(self, x):
        return self.layers(x)

class Run:
    def __init__(self, **how):
        self.model = Net().cuda()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3, **how)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 60)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24, growth_interval=5)
        self.losses = []

    def step(self, x, y):
        self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(self.model(x), y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.losses.append(loss.item())

data = torch.randn(512, 32, device="cuda")
target = torch.randint(0, 10, (512,), device="cuda")
tail = data[256:]
shuffle = torch.Generator().manual_seed(5)
noise = torch.Generator("cuda").manual_seed(6)
runs = [Run(fused=True), Run(foreach=True), Run(capturable=True, weight_decay=1e-2)]

def step():
    index = torch.randperm(512, generator=shuffle)[:64].cuda()
    x = data[index] + 0.01 * torch.randn(64, 32, device="cuda", generator=noise)
    tail.mul_(1.0001)
    for run in runs:
        run.step(x, target[index])
"""


def main() -> None:
    from jupyter_gpuaas.state import Checkpointer
    from jupyter_gpuaas.store import FolderStore

    asked = json.loads(sys.argv[1])
    namespace = sys.modules["__main__"].__dict__
    checkpointer = Checkpointer(FolderStore(asked["folder"]), key=KEY)
    report: dict[str, Any] = {}
    if asked["start"]:
        restored = checkpointer.restore(asked["start"], into=namespace)
        report = {name: [verdict.outcome, verdict.note] for name, verdict in restored.report.items()}
    else:
        exec(compile(CELLS, "<cells>", "exec", dont_inherit=True), namespace)
    while len(namespace["runs"][0].losses) < asked["until"]:
        namespace["step"]()
    checkpoint = checkpointer.capture(namespace, parent=asked["start"] or None)
    print(json.dumps({"id": checkpoint.id, "report": report, **outcome(namespace)}))


def outcome(namespace: dict[str, Any]) -> dict[str, Any]:
    """Losses exactly, and a digest of all that is to be bit-equal."""
    import torch

    digest = hashlib.sha256()
    for run in namespace["runs"]:
        digest.update(repr([run.scaler.get_scale(), run.scheduler.last_epoch]).encode())
        for tensor in run.model.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        for state in run.optimizer.state.values():
            for name in sorted(state):
                digest.update(torch.as_tensor(state[name]).cpu().numpy().tobytes())
    digest.update(namespace["data"].cpu().numpy().tobytes())
    assert namespace["tail"].data_ptr() == namespace["data"][256:].data_ptr()
    return {"losses": [[loss.hex() for loss in run.losses] for run in namespace["runs"]], "digest": digest.hexdigest()}
