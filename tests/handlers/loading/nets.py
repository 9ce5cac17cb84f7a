"""Model files of every kind: each the body of one, and the shape of an input."""

HEAD = "import copy, functools, torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"

# Each is the body of a model file and the shape of an input. The first are built on meta, the others cannot be.
MAPPED = {
    "linear": ("class Net(nn.Linear):\n    def __init__(self): super().__init__(4, 3)", (2, 4)),
    "convolution and batch norm": (
        """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
        """,
        (2, 3, 8, 8),
    ),
    "transformer, which copies its layers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            def forward(self, x): return self.body(x)
        """,
        (2, 5, 8),
    ),
    "recurrent": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True, proj_size=3)
                self.gru = nn.GRU(6, 5, batch_first=True)
            def forward(self, x): return self.gru(self.lstm(x)[0])[0]
        """,
        (2, 7, 4),
    ),
    "tied weights": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
                self.second.weight = self.first.weight
            def forward(self, x): return self.second(self.first(x))
        """,
        (2, 4),
    ),
    "one module under two names": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = self.second = nn.Linear(4, 4)
            def forward(self, x): return self.second(self.first(x))
        """,
        (2, 4),
    ),
    "persistent buffers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("scale", torch.arange(4.0))
                self.register_buffer("nothing", None)
                self.w = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))])
            def forward(self, x): return x * self.scale + self.w[0] - self.w[1]
        """,
        (2, 4),
    ),
    "half precision, set in the constructor": (
        """
        class Net(nn.Linear):
            def __init__(self):
                super().__init__(4, 3)
                self.double()
            def forward(self, x): return super().forward(x.double())
        """,
        (2, 4),
    ),
    "parametrised": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
            def forward(self, x): return self.layer(x)
        """,
        (2, 4),
    ),
}
BUILT = {
    "buffers that are not saved": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.register_buffer("places", torch.arange(4.0), persistent=False)
            def forward(self, x): return self.layer(x + self.places)
        """,
        (2, 4),
    ),
    "plain tensors in attributes": (
        """
        class Holder: pass
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.one = torch.full((4,), 2.0)
                self.several = [torch.ones(4), {"deep": (torch.full((4,), 3.0),)}]
                self.holder = Holder()
                self.holder.value = torch.full((4,), 5.0)
            def forward(self, x):
                return self.layer(x + self.one) + self.several[0] * self.several[1]["deep"][0] - self.holder.value
        """,
        (2, 4),
    ),
    "a tensor in a closure": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                scale = torch.full((4,), 2.0)
                self.act = lambda x: x * scale
                self.part = functools.partial(torch.add, torch.ones(4))
            def forward(self, x): return self.part(self.act(self.layer(x)))
        """,
        (2, 4),
    ),
    "a parameter in a list": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.all = [self.layer.weight]
            def forward(self, x): return x @ self.all[0]
        """,
        (2, 4),
    ),
    "a remembered device": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.device = self.layer.weight.device
            def forward(self, x): return self.layer(x) + torch.arange(4, device=self.device)
        """,
        (2, 4),
    ),
    "a remembered type of device": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.kind = self.layer.weight.device.type
            def forward(self, x): return self.layer(x) + torch.arange(4, device=self.kind)
        """,
        (2, 4),
    ),
    "a constructor that reads values": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rates = [rate.item() for rate in torch.linspace(0, 1, 4)]
                self.layer = nn.Linear(4, 4)
            def forward(self, x): return self.layer(x) + torch.tensor(self.rates)
        """,
        (2, 4),
    ),
    "a buffer that is a view of a parameter": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.register_buffer("row", self.layer.weight.data[0])
            def forward(self, x): return self.layer(x) + self.row
        """,
        (2, 4),
    ),
    "weight norm in its old form": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.utils.weight_norm(nn.Linear(4, 3))
            def forward(self, x): return self.layer(x)
        """,
        (2, 4),
    ),
    "a cache of the module": (
        """
        CACHE = {}
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                CACHE.setdefault("table", torch.full((4,), 7.0))
            def forward(self, x): return self.layer(x) + CACHE["table"]
        """,
        (2, 4),
    ),
    "a cached function": (
        """
        @functools.lru_cache
        def table(size): return torch.full((size,), 7.0)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                table(4)
            def forward(self, x): return self.layer(x) + table(4)
        """,
        (2, 4),
    ),
    "a cache of the class": (
        """
        class Net(nn.Module):
            table = None
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                if Net.table is None:
                    Net.table = torch.full((4,), 7.0)
            def forward(self, x): return self.layer(x) + self.table
        """,
        (2, 4),
    ),
    "TorchScript inside": (
        """
        class Part(torch.jit.ScriptModule):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
            @torch.jit.script_method
            def forward(self, x): return self.layer(x)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = Part()
            def forward(self, x): return self.part(x)
        __all__ = ["Net"]
        """,
        (2, 4),
    ),
    "quantised": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.ao.nn.quantized.Linear(4, 3)
            def forward(self, x): return self.layer(torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)).dequantize()
        """,
        (2, 4),
    ),
    "a hook that renames keys": (
        """
        class Net(nn.Linear):
            def __init__(self): super().__init__(4, 3)
            def state_dict(self, *args, **kwargs):
                return {key.replace("weight", "kernel"): v for key, v in super().state_dict(*args, **kwargs).items()}
            def _load_from_state_dict(self, state_dict, prefix, *rest):
                if prefix + "kernel" in state_dict:
                    state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
                super()._load_from_state_dict(state_dict, prefix, *rest)
        """,
        (2, 4),
    ),
    "a loader that copies by itself": (
        """
        class Net(nn.Linear):
            def __init__(self): super().__init__(4, 3)
            def _load_from_state_dict(self, state_dict, prefix, *rest):
                self.weight.data.copy_(state_dict[prefix + "weight"])
                self.bias.data.copy_(state_dict[prefix + "bias"])
        """,
        (2, 4),
    ),
}
ALL = MAPPED | BUILT
