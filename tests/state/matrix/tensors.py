"""torch: storages that are shared, graphs, gradients, models with their optimizers, random states."""

from __future__ import annotations

from tests.state.cases import EXACT, HONEST, RIGHT, case

CASES = [
    case(
        "torch",
        "view with offset and stride",
        """
        import torch
        base = torch.arange(12.0).reshape(3, 4)
        row, column, step = base[1], base[:, 2], base.view(-1)[1::3]
        """,
        """
        row[2] = -1
        column[0] = -2
        assert base[1, 2] == -1 and column[1] == -1 and base[0, 2] == -2
        step[0] = 5
        assert base[0, 1] == 5 and column.stride() == (4,) and row.storage_offset() == 4
        """,
        EXACT,
    ),
    case(
        "torch",
        "views across names whose base has none",
        """
        import torch
        whole = torch.zeros(100)
        left, right = whole[:60], whole[40:]
        del whole
        """,
        """
        left[50] = 3
        assert right[10] == 3 and left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()
        """,
        EXACT,
    ),
    case(
        "torch",
        "tensor and numpy array on one memory",
        """
        import numpy as np, torch
        tensor = torch.zeros(4)
        array = tensor.numpy()
        source = np.ones(4)
        wrapped = torch.from_numpy(source)[1:]
        """,
        """
        array[1] = 5
        source[2] = 6
        assert tensor[1] == 5 and wrapped[1] == 6
        tensor[0] = 7
        wrapped[0] = 8
        assert array[0] == 7 and source[1] == 8
        """,
        EXACT,
    ),
    case(
        "torch",
        "leaf with gradient",
        """
        import torch
        w = torch.tensor([1.0, 2.0], requires_grad=True)
        (w ** 2).sum().backward()
        g = w.grad
        """,
        """
        assert w.requires_grad and w.is_leaf and w.grad.tolist() == [2.0, 4.0] and w.grad is g
        (w ** 2).sum().backward()
        assert g.tolist() == [4.0, 8.0]
        """,
        EXACT,
    ),
    case(
        "torch",
        "non-leaf with its graph",
        """
        import torch
        w = torch.tensor([1.0, 2.0], requires_grad=True)
        loss = (w * 3).exp().sum()
        """,
        """
        assert loss.grad_fn is not None and not loss.is_leaf
        loss.backward()
        assert torch.allclose(w.grad, 3 * (w.detach() * 3).exp())
        """,
        HONEST,
    ),
    case(
        "torch",
        "non-leaf that kept its gradient, view of a leaf",
        """
        import torch
        w = torch.ones(3, requires_grad=True)
        middle = w * 2
        middle.retain_grad()
        middle.sum().backward()
        part = w[:2]
        """,
        """
        assert middle.grad.tolist() == [1, 1, 1] and w.grad.tolist() == [2, 2, 2]
        assert part.grad_fn is not None and part.requires_grad
        part.sum().backward()
        assert w.grad.tolist() == [3, 3, 2]
        """,
        HONEST,
    ),
    case(
        "torch",
        "detached alias of a leaf",
        """
        import torch
        w = torch.ones(3, requires_grad=True)
        raw = w.detach()
        data = w.data
        """,
        """
        raw[0] = 5
        data[1] = 6
        assert w.tolist() == [5, 6, 1] and not raw.requires_grad and w.requires_grad
        """,
        EXACT,
    ),
    case(
        "torch",
        "parameters in a model and in an optimizer",
        """
        import torch
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        X = torch.randn(8, 3)

        def step():
            optimizer.zero_grad()
            loss = (model(X) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        step()
        step()
        """,
        """
        parameters = list(model.parameters())
        assert all(a is b for a, b in zip(parameters, optimizer.param_groups[0]['params'], strict=True))
        assert set(map(id, optimizer.state)) == set(map(id, parameters))
        torch.manual_seed(0)
        twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        torch.randn(8, 3)
        other = torch.optim.Adam(twin.parameters(), lr=0.1)
        for _ in range(4):
            other.zero_grad()
            wanted = (twin(X) ** 2).mean()
            wanted.backward()
            other.step()
        step()
        assert step() == wanted.item()
        assert all(torch.equal(a, b) for a, b in zip(parameters, twin.parameters(), strict=True))
        """,
        EXACT,
    ),
    case(
        "torch",
        "optimizer with momentum, groups and a scheduler",
        """
        import torch
        a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([{'params': [a], 'lr': 0.5}, {'params': [b]}], lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
        for _ in range(2):
            (a.sum() + b.sum()).backward()
            optimizer.step()
            scheduler.step()
        momentum = optimizer.state[a]['momentum_buffer']
        """,
        """
        assert scheduler.optimizer is optimizer and scheduler.get_last_lr() == [0.125, 0.025]
        assert optimizer.state[a]['momentum_buffer'] is momentum and optimizer.param_groups[0]['params'][0] is a
        before = a.detach().clone()
        buffer = momentum.clone()
        optimizer.zero_grad()
        (a.sum() + b.sum()).backward()
        optimizer.step()
        assert torch.allclose(a.detach(), before - 0.125 * (0.9 * buffer + 1))
        scheduler.step()
        assert optimizer.param_groups[0]['lr'] == 0.0625 and optimizer.param_groups[1]['lr'] == 0.0125
        """,
        RIGHT,
    ),
    case(
        "torch",
        "tied weights",
        """
        import torch

        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = torch.nn.Embedding(5, 3)
                self.out = torch.nn.Linear(3, 5, bias=False)
                self.out.weight = self.embed.weight

        model = Tied()
        """,
        """
        assert model.out.weight is model.embed.weight and len(list(model.parameters())) == 1
        with torch.no_grad():
            model.embed.weight[0, 0] = 42
        assert model.out.weight[0, 0] == 42 and type(model) is Tied
        """,
        RIGHT,
    ),
    case(
        "torch",
        "state_dict shares with the model",
        """
        import torch
        model = torch.nn.BatchNorm1d(2)
        state = model.state_dict()
        """,
        """
        state['weight'][0] = 7
        state['num_batches_tracked'] += 3
        assert model.weight[0] == 7 and model.num_batches_tracked == 3
        """,
        EXACT,
    ),
    case(
        "torch",
        "gradients that are views of one flat buffer",
        """
        import torch
        model = torch.nn.Linear(2, 2)
        flat = torch.zeros(6)
        model.weight.grad, model.bias.grad = flat[:4].view(2, 2), flat[4:]
        """,
        """
        flat.fill_(1)
        assert model.weight.grad.sum() == 4 and model.bias.grad.sum() == 2
        """,
        EXACT,
    ),
    case(
        "torch",
        "module class of the notebook, flags, buffers, attributes",
        """
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.parts = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(1)) for _ in range(2)])
                self.named = torch.nn.ModuleDict({'a': torch.nn.Linear(1, 1)})
                self.register_buffer('seen', torch.zeros(1), persistent=False)
                self.parts[0].tag = 'first'

            def forward(self, x):
                self.seen += 1
                return x * self.parts[0]

        net = Net().eval()
        net.named['a'].weight.requires_grad_(False)
        net(torch.ones(1))
        """,
        """
        assert not net.training and not net.named['a'].weight.requires_grad and net.parts[0].tag == 'first'
        net(torch.ones(1))
        assert net.seen.item() == 2 and 'seen' not in net.state_dict() and isinstance(net, Net)
        assert isinstance(net.parts[1], torch.nn.Parameter) and len(list(net.parameters())) == 4
        """,
        RIGHT,
    ),
    case(
        "torch",
        "instance of a class that was redefined",
        """
        import torch

        class Net(torch.nn.Module):
            def forward(self, x):
                return x + 1

        old = Net()
        # %%
        class Net(torch.nn.Module):
            def forward(self, x):
                return x + 2

        new = Net()
        """,
        """
        assert old(1) == 2 and new(1) == 3 and type(new) is Net and type(old) is not Net
        """,
        RIGHT,
    ),
    case(
        "torch",
        "forward and backward hooks, handle to remove them",
        """
        import torch
        seen = []
        layer = torch.nn.Linear(2, 2)
        handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
        grads = []
        layer.weight.register_hook(lambda grad: grads.append(grad.sum().item()))
        layer(torch.ones(1, 2))
        """,
        """
        layer(torch.ones(3, 2)).sum().backward()
        assert seen == [(1, 2), (3, 2)] and grads == [12.0]
        handle.remove()
        layer(torch.ones(1, 2))
        assert len(seen) == 2
        """,
        HONEST,
    ),
    case(
        "torch",
        "Generator in the middle of its stream",
        """
        import torch
        generator = torch.Generator().manual_seed(5)
        torch.rand(3, generator=generator)
        alias = generator
        """,
        """
        twin = torch.Generator().manual_seed(5)
        torch.rand(3, generator=twin)
        assert alias is generator and torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=twin))
        """,
        RIGHT,
    ),
    case(
        "torch",
        "global random state, and dropout from it",
        """
        import torch
        torch.manual_seed(11)
        dropout = torch.nn.Dropout(0.5)
        dropout(torch.ones(10))
        """,
        """
        drawn = dropout(torch.ones(20))
        torch.manual_seed(11)
        dropout(torch.ones(10))
        assert torch.equal(drawn, dropout(torch.ones(20)))
        """,
        RIGHT,
    ),
    case(
        "torch",
        "default dtype, grad mode, deterministic algorithms",
        """
        import torch
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_printoptions(precision=9)
        """,
        """
        import torch
        assert torch.get_default_dtype() == torch.float64 and torch.zeros(1).dtype == torch.float64
        assert not torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled()
        assert '0.333333333' in str(torch.ones(1) / 3)
        """,
        HONEST,
    ),
    case(
        "torch",
        "sparse, quantised, complex, bfloat16, bool",
        """
        import torch, warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            sparse = torch.eye(3).to_sparse()
            rows = torch.eye(3).to_sparse_csr()
            quantised = torch.quantize_per_tensor(torch.tensor([0.5, 1.5]), 0.5, 1, torch.quint8)
        brain = torch.tensor([1.5, 2.5]).bfloat16()
        conjugate = torch.tensor([1 + 2j]).conj()
        mask = torch.tensor([True, False])
        """,
        """
        assert sparse.is_sparse and sparse.is_coalesced() and sparse.to_dense().trace() == 3
        assert rows.layout == torch.sparse_csr and rows.to_dense().trace() == 3
        assert quantised.q_scale() == 0.5 and quantised.q_zero_point() == 1
        assert quantised.dequantize().tolist() == [0.5, 1.5]
        assert brain.dtype == torch.bfloat16 and brain.tolist() == [1.5, 2.5] and mask.dtype == torch.bool
        assert conjugate.is_conj() and conjugate.resolve_conj()[0].item() == 1 - 2j
        """,
        EXACT,
    ),
    case(
        "torch",
        "memory formats, expanded, empty, 0-d and meta tensors",
        """
        import torch
        image = torch.zeros(1, 3, 4, 5).to(memory_format=torch.channels_last)
        row = torch.arange(3.0)
        wide = row.expand(1000, 3)
        nothing = torch.empty(0, 4)
        scalar = torch.tensor(2.5)
        shape_only = torch.empty(10**12, device='meta')
        """,
        """
        assert image.is_contiguous(memory_format=torch.channels_last) and image.stride() == (60, 1, 15, 3)
        row[1] = 8
        assert wide[999, 1] == 8 and wide.stride() == (0, 1)
        assert nothing.shape == (0, 4) and scalar.shape == () and scalar.item() == 2.5
        assert shape_only.is_meta and shape_only.shape == (10**12,)
        """,
        EXACT,
    ),
    case(
        "torch",
        "storage, typed views of it, and set_",
        """
        import torch
        numbers = torch.zeros(4)
        storage = numbers.untyped_storage()
        bits = numbers.view(torch.int32)
        other = torch.tensor([]).set_(storage, 1, (2,))
        """,
        """
        bits[1] = 0x3F800000
        assert numbers[1] == 1.0 and other[0] == 1.0
        assert storage.data_ptr() == numbers.untyped_storage().data_ptr()
        """,
        RIGHT,
    ),
    case(
        "torch",
        "tensor with attributes, subclass",
        """
        import torch

        class Tagged(torch.Tensor):
            pass

        plain = torch.ones(2)
        plain.unit = ['m']
        tagged = torch.zeros(2).as_subclass(Tagged)
        tagged.origin = plain
        """,
        """
        assert plain.unit == ['m'] and type(tagged) is Tagged and tagged.origin is plain
        """,
        RIGHT,
    ),
    case(
        "torch",
        "weight norm parametrization",
        """
        import torch
        torch.manual_seed(1)
        layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
        probe = torch.ones(1, 2)
        wanted = layer(probe).detach()
        """,
        """
        assert torch.equal(layer(probe), wanted) and torch.nn.utils.parametrize.is_parametrized(layer)
        with torch.no_grad():
            layer.parametrizations.weight.original0.mul_(2)
        assert not torch.equal(layer(probe), wanted)
        """,
        HONEST,
    ),
    case(
        "torch",
        "torch.compile with the eager backend",
        """
        import torch
        scale = 3

        @torch.compile(backend='eager')
        def scaled(x):
            return x * scale

        model = torch.compile(torch.nn.Linear(2, 2), backend='eager')
        scaled(torch.ones(2))
        """,
        """
        scale = 4
        assert scaled(torch.ones(2)).tolist() == [4, 4] and model(torch.ones(1, 2)).shape == (1, 2)
        assert hasattr(scaled, '_torchdynamo_orig_callable') and hasattr(model, '_orig_mod')
        """,
        HONEST,
    ),
    case(
        "torch",
        "autograd.Function of the notebook",
        """
        import torch

        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return grad * 20

        x = torch.ones(1, requires_grad=True)
        y = Double.apply(x)
        """,
        """
        Double.apply(x).backward()
        assert x.grad.item() == 20
        y.backward()
        assert x.grad.item() == 40
        """,
        HONEST,
    ),
    case(
        "torch",
        "DataLoader that shuffles with a generator",
        """
        import torch
        generator = torch.Generator().manual_seed(3)
        data = torch.utils.data.TensorDataset(torch.arange(8))
        loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=generator)
        first = [batch[0].tolist() for batch in loader]
        """,
        """
        twin = torch.Generator().manual_seed(3)
        other = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=twin)
        assert [batch[0].tolist() for batch in other] == first
        assert [b[0].tolist() for b in loader] == [b[0].tolist() for b in other]
        assert loader.generator is generator and loader.sampler.generator is generator
        """,
        RIGHT,
    ),
    case(
        "torch",
        "DataLoader iterator, half consumed",
        """
        import torch
        torch.manual_seed(0)
        loader = torch.utils.data.DataLoader(list(range(8)), batch_size=2, shuffle=True)
        batches = iter(loader)
        taken = next(batches).tolist()
        """,
        """
        rest = [n for batch in batches for n in batch.tolist()]
        assert len(rest) == 6 and sorted(rest + taken) == list(range(8))
        """,
        HONEST,
    ),
    case(
        "torch",
        "exponential average that shares nothing with its model",
        """
        import copy, torch
        model = torch.nn.Linear(2, 2)
        average = copy.deepcopy(model)
        # %%
        with torch.no_grad():
            model.weight.add_(1)
        """,
        """
        assert torch.allclose(model.weight, average.weight + 1)
        with torch.no_grad():
            average.weight.zero_()
        assert model.weight.abs().sum() > 0
        """,
        EXACT,
    ),
    case(
        "torch",
        "changed through .data and through numpy between captures",
        """
        import torch
        w = torch.zeros(300_000, requires_grad=True)
        seen = w.detach().numpy()
        # %%
        w.data[5] = 1
        # %%
        seen[200_000] = 2
        """,
        """
        assert w[5] == 1 and w[200_000] == 2 and w.sum() == 3
        seen[0] = 4
        assert w[0] == 4
        """,
        EXACT,
    ),
    case(
        "torch",
        "packed sequence, distribution, device, dtype, size",
        """
        import torch
        packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
        normal = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        device, dtype, size = torch.device('cpu'), torch.int16, torch.Size([2, 3])
        """,
        """
        assert torch.nn.utils.rnn.pad_packed_sequence(packed)[1].tolist() == [3, 2]
        assert normal.log_prob(torch.zeros(2)).shape == (2,) and type(size) is torch.Size
        assert device.type == 'cpu' and dtype is torch.int16 and size.numel() == 6
        """,
        EXACT,
    ),
    case(
        "torch",
        "inference tensor",
        """
        import torch
        with torch.inference_mode():
            frozen = torch.ones(2)
        """,
        """
        assert frozen.tolist() == [1, 1]
        """,
        HONEST,
        strict="assert frozen.is_inference()",
    ),
    case(
        "torch",
        "file mapped into a tensor",
        """
        import torch
        torch.arange(4.0).numpy().tofile('weights.bin')
        mapped = torch.from_file('weights.bin', shared=True, size=4)
        mapped[1] = 9
        """,
        """
        assert mapped.tolist() == [0, 9, 2, 3]
        """,
        HONEST,
        strict="""
        import numpy as np
        mapped[2] = 8
        assert np.fromfile('weights.bin', dtype='f4')[2] == 8
        """,
    ),
]
