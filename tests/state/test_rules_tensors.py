"""Tensors, models and what trains them, through one pickle and back. Sharing is proved by writing."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def test_views_arrays_and_storages_share_one_memory() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import torch, numpy as np
t = torch.arange(6.0); part = t[2:4]; turned = t.reshape(2, 3).T; bits = t.view(torch.int32)
array = t.numpy()[1:]; storage = t.untyped_storage(); typed = t.storage()
source = np.arange(4.0); wrapped = torch.from_numpy(source); tail = wrapped[1:]; head = source[:2]
left, right = torch.split(torch.zeros(4), 2)
"""
        )
    )
    new["part"][0] = 99
    assert new["t"][2] == 99 and new["turned"][2, 0] == 99 and new["array"][1] == 99 and new["typed"][2] == 99
    new["bits"][3] = 0
    assert new["part"][1] == 0
    new["array"][0] = 7
    assert new["t"][1] == 7
    new["source"][1] = -1
    assert new["wrapped"][1] == new["tail"][0] == new["head"][1] == -1
    assert new["storage"]._cdata == new["t"].untyped_storage()._cdata
    assert new["left"].untyped_storage()._cdata == new["right"].untyped_storage()._cdata
    assert new["part"]._base is new["t"] and new["part"]._version == new["t"]._version
    assert not context.rebuilds


def test_flags_layouts_and_attributes() -> None:
    made = cell(
        """
import torch
conj = torch.ones(3, dtype=torch.cfloat).mul(1j).conj(); neg = conj.imag
with torch.inference_mode(): frozen = torch.ones(2)
coo = torch.eye(3).to_sparse(); loose = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (2,))
csr = torch.eye(3).to_sparse_csr()
grown = torch.eye(2).to_sparse().requires_grad_()
quantised = torch.quantize_per_channel(torch.ones(2, 2), torch.tensor([.1, .2]), torch.tensor([0, 1]), 0, torch.qint8)
nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
meta = torch.empty(3, 2, device="meta"); empty = torch.empty(0, 3); wide = torch.ones(1).expand(5)
small = torch.tensor([1.5], dtype=torch.bfloat16); eighth = torch.ones(2).to(torch.float8_e4m3fn)
t = torch.ones(2); t.note = ["x", t]
class Sub(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})
sub = torch.ones(2).as_subclass(Sub); sub.tag = 5
p = torch.nn.Parameter(torch.ones(2), requires_grad=False); p.tag = 1
buffer = torch.nn.Buffer(torch.ones(2), persistent=False); lazy = torch.nn.LazyLinear(2)
device, dtype, size = torch.device("cpu"), torch.int16, torch.Size([2])
"""
    )
    new, _, _ = roundtrip(made)
    for name in ("conj", "neg", "frozen", "empty", "wide", "small", "t", "p", "buffer"):
        assert torch.equal(new[name], made[name]), name
        assert new[name].stride() == made[name].stride() and new[name].dtype == made[name].dtype
    assert new["conj"].is_conj() and new["neg"].is_neg() and new["frozen"].is_inference()
    assert new["coo"].is_coalesced() and not new["loose"].is_coalesced() and new["loose"].to_dense()[0] == 3
    assert new["grown"].requires_grad and new["csr"].layout is torch.sparse_csr
    assert torch.equal(new["quantised"].int_repr(), made["quantised"].int_repr())
    assert new["nested"].unbind()[1].shape == (3,) and new["jagged"].unbind()[1].shape == (3,)
    assert new["meta"].shape == (3, 2) and new["meta"].is_meta
    assert torch.equal(new["eighth"].float(), made["eighth"].float())
    assert (
        new["sub"].tolist() == [1, 1]
        and new["t"].note[1] is new["t"]
        and type(new["sub"]) is new["Sub"]
        and new["sub"].tag == 5
    )
    assert not new["p"].requires_grad and isinstance(new["p"], torch.nn.Parameter) and new["p"].tag == 1
    assert isinstance(new["buffer"], torch.nn.Buffer) and not new["buffer"].persistent
    assert isinstance(new["lazy"].weight, torch.nn.UninitializedParameter)
    assert (new["device"], new["dtype"], new["size"]) == (made["device"], made["dtype"], made["size"])


def test_gradients_of_leaves_and_hooks() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import torch
w = torch.ones(2, requires_grad=True); (w * 3).sum().backward(); grad = w.grad
calls = []
handle = w.register_hook(lambda g: g * 10)
after = w.register_post_accumulate_grad_hook(lambda t: calls.append(t))
raw = w.detach(); data = w.data
"""
        )
    )
    w = new["w"]
    assert w.grad is new["grad"] and w.grad.tolist() == [3, 3]
    (w * 1).sum().backward()
    assert new["grad"].tolist() == [13, 13] and new["calls"][0] is w
    new["handle"].remove()
    new["after"].remove()
    (w * 1).sum().backward()
    assert w.grad.tolist() == [14, 14] and len(new["calls"]) == 1
    new["raw"][0] = 5
    new["data"][1] = 6
    assert w.tolist() == [5, 6]


def test_graph_that_was_used_up_says_so_again() -> None:
    new, context, _ = roundtrip(
        cell("import torch\nw = torch.ones(2, requires_grad=True)\nloss = (w * w).sum()\nloss.backward()\nlog = [loss]")
    )
    assert new["loss"].item() == 2 and not new["loss"].is_leaf and new["log"][0] is new["loss"]
    with pytest.raises(RuntimeError, match="second time"):
        new["loss"].backward()
    assert context.rebuilds


def test_views_of_a_leaf_are_views_of_it_for_autograd() -> None:
    new, context, _ = roundtrip(
        cell(
            "import torch\nw = torch.arange(12.0).reshape(3, 4).clone().requires_grad_()\n"
            "parts = [w[1], w.t()[1:, ::2], w.view(2, 6), w[:, 2].unsqueeze(0), w.permute(1, 0).select(0, 1)]\n"
            "model = torch.nn.Linear(2, 2); row = model.weight[0]"
        )
    )
    w = new["w"]
    assert all(part._base is w and part.grad_fn is not None for part in new["parts"])
    sum((part * (n + 1)).sum() for n, part in enumerate(new["parts"])).backward()
    twin = torch.arange(12.0).reshape(3, 4).requires_grad_()
    parts = [twin[1], twin.t()[1:, ::2], twin.view(2, 6), twin[:, 2].unsqueeze(0), twin.permute(1, 0).select(0, 1)]
    sum((part * (n + 1)).sum() for n, part in enumerate(parts)).backward()
    assert torch.equal(w.grad, twin.grad)
    with pytest.raises(RuntimeError, match="leaf"):
        new["parts"][0].add_(1)
    new["row"].sum().backward()
    assert new["model"].weight.grad.sum() == 2 and not context.rebuilds


def test_graph_to_go_is_reported() -> None:
    with pytest.raises(NotRestorable, match="result of autograd"):
        roundtrip(cell("import torch\nw = torch.ones(2, requires_grad=True)\ny = (w * 2).exp()"))
    new, context, _ = roundtrip(
        cell(
            "import torch, torch.nn.utils.prune as prune\nmodel = torch.nn.Linear(2, 2)\n"
            "model.last = model(torch.ones(1, 2))\n"
            "pruned = prune.random_unstructured(torch.nn.Linear(4, 4), 'weight', 0.5); x = torch.ones(1, 4)\n"
            "y = pruned(x).detach()"
        )
    )
    assert new["model"].last.requires_grad and any("not its graph" in how for how in context.rebuilds)
    with pytest.raises(RuntimeError, match="not kept"):
        new["model"].last.sum().backward()
    assert torch.equal(new["pruned"](new["x"]), new["y"])
    new["pruned"](new["x"]).sum().backward()
    assert new["pruned"].weight_orig.grad is not None


def test_tensor_in_a_transformation_is_reported() -> None:
    seen: list[object] = []
    torch.func.vmap(lambda x: (seen.append(x), x)[1])(torch.ones(2))
    with pytest.raises(NotRestorable):
        roundtrip({"x": seen[0]})


def test_training_goes_on_bit_by_bit() -> None:
    source = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.{optimizer}
scheduler = torch.optim.lr_scheduler.{scheduler}
generator = torch.Generator().manual_seed(4)
def step():
    x = torch.randn(5, 3, generator=generator)
    def closure():
        optimizer.zero_grad(); loss = (model(x) ** 2).mean(); loss.backward(); return loss
    loss = optimizer.step(closure)
    scheduler.step(*([loss.item()] if "Plateau" in type(scheduler).__name__ else []))
    return loss.item()
for _ in range(3): step()
"""
    for optimizer, scheduler in (
        ("Adam(model.parameters(), 0.1)", "CyclicLR(optimizer, 0.01, 0.2, mode='triangular2', cycle_momentum=False)"),
        ("SGD(model.parameters(), 0.1, momentum=0.9)", "OneCycleLR(optimizer, 0.1, total_steps=20)"),
        ("LBFGS(model.parameters())", "LambdaLR(optimizer, lambda epoch: 0.9 ** epoch)"),
        ("AdamW(model.parameters(), amsgrad=True, foreach=True)", "ReduceLROnPlateau(optimizer, patience=0)"),
        ("RMSprop(model.parameters())", "CosineAnnealingWarmRestarts(optimizer, 2)"),
    ):
        made = cell(source.format(optimizer=optimizer, scheduler=scheduler))
        new, context, _ = roundtrip(made)
        assert new["optimizer"].param_groups[0]["params"][0] is new["model"][0].weight
        assert new["scheduler"].optimizer is new["optimizer"]
        assert [new["step"]() for _ in range(4)] == [made["step"]() for _ in range(4)], optimizer
        assert not context.rebuilds
        for ours, theirs in zip(new["model"].state_dict().values(), made["model"].state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)


def test_hooks_of_models_and_optimizers_keep_their_ids() -> None:
    handle = torch.utils.hooks.RemovableHandle
    made = cell(
        """
import torch
calls = []
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
model.register_forward_hook(lambda *_: calls.append("forward"))
full = model.register_full_backward_hook(lambda *_: calls.append("backward"))
optimizer.register_step_post_hook(lambda *_: calls.append("step"))
"""
    )
    before, handle.next_id = handle.next_id, 0  # a fresh process counts from nought
    new, _, _ = roundtrip(made)
    assert handle.next_id >= before
    new["model"].register_forward_hook(lambda *_: new["calls"].append("new"))
    new["optimizer"].register_step_post_hook(lambda *_: new["calls"].append("new step"))
    new["model"](torch.ones(1, 2)).sum().backward()
    new["optimizer"].step()
    assert new["calls"] == ["forward", "new", "backward", "step", "new step"]
    new["full"].remove()
    new["model"](torch.ones(1, 2)).sum().backward()
    assert new["calls"].count("backward") == 1


def test_tied_weights_state_dicts_and_parametrizations() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import torch
a, b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
b.weight = a.weight
state = a.state_dict()
normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
x = torch.ones(1, 2); y = normed(x).detach()
lstm = torch.nn.LSTM(2, 3)
traced = torch.fx.symbolic_trace(torch.nn.Linear(2, 2))
"""
        )
    )
    new["state"]["weight"][0] = 4
    assert new["a"].weight is new["b"].weight and (new["b"].weight[0] == 4).all()
    assert torch.equal(new["normed"](new["x"]), new["y"])
    assert isinstance(new["normed"], torch.nn.Linear) and len(list(new["normed"].parameters())) == 3
    assert new["lstm"]._flat_weights[0] is new["lstm"].weight_ih_l0
    assert new["traced"](torch.ones(1, 2)).shape == (1, 2)


def test_compiled_functions_and_modules_are_compiled_anew() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import torch
k = 3
@torch.compile(backend="eager", fullgraph=True)
def scaled(x): return x * k
alias = scaled
model = torch.nn.Linear(2, 2)
fast = torch.compile(model, backend="eager")
waiting = torch.compile(lambda x: x + 1, mode="reduce-overhead", dynamic=True)
def mine(graph, inputs): return graph
by_mine = torch.compile(lambda x: x - 1, backend=mine)
"""
        )
    )
    assert new["scaled"](torch.ones(1)) == 3 and new["alias"] is new["scaled"]
    new["k"] = 7
    assert new["scaled"](torch.ones(1)) == 7
    assert new["fast"]._orig_mod is new["model"] and new["fast"](torch.ones(1, 2)).shape == (1, 2)
    assert new["by_mine"](torch.ones(1)) == 0 and new["waiting"]._torchdynamo_orig_callable(1) == 2
    assert any("torch.compile" in how for how in context.rebuilds)


def test_generators_and_the_device_map() -> None:
    made = cell(
        """
import torch
torch.manual_seed(3)
g = torch.Generator().manual_seed(1); torch.rand(3, generator=g); same = g; default = torch.default_generator
t = torch.ones(3); part = t[1:]; device = torch.device("cpu"); array = torch.zeros(2).numpy()
"""
    )
    new, _, _ = roundtrip(made)
    assert torch.equal(torch.rand(3, generator=new["same"]), torch.rand(3, generator=made["g"]))
    assert new["g"] is new["same"] and new["default"] is torch.default_generator
    assert "t" in roundtrip(made, device_map={"cuda": "cpu"})[0]


def test_torchscript_keeps_the_tensors_that_others_hold() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import torch
plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval()
script = torch.jit.script(plain); optimizer = torch.optim.SGD(script.parameters(), 0.1)
traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)); f = torch.jit.trace(lambda x: x + 1, torch.ones(2))
"""
        )
    )
    x = torch.ones(3, 2)
    assert torch.equal(new["script"](x), new["plain"](x)) and not new["script"].training
    new["script"](x).sum().backward()
    new["optimizer"].step()
    assert (
        torch.equal(new["script"](x), new["plain"](x)) and new["f"](x)[0, 0] == 2 and new["traced"](x).shape == (3, 2)
    )
    assert new["plain"][0].weight.grad is not None and any("TorchScript" in how for how in context.rebuilds)


def test_storage_can_be_resized_after_a_capture_too() -> None:
    namespace = cell("import torch\nt = torch.arange(1000.)")
    roundtrip(namespace)
    namespace["t"].resize_(3000)
    assert namespace["t"].untyped_storage().nbytes() == 12_000
