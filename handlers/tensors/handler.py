"""The handler for models that take and return tensors, as JSON or as bytes, without code to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from handlers.base import BaseHandler
from handlers.batch.inputs import numbers_to_tensor, read_json, require
from handlers.device import to_device
from handlers.errors import BadInputError, UnsupportedMediaError
from handlers.loading.signature import Signature, Tensor, named_tensors, read_signature
from handlers.tensors import codecs, media_types, open_inference
from handlers.tensors.media_types import BINARY, JSON, NPY, NPZ, SAFETENSORS
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context
    from handlers.tensors.open_inference import InferenceRequest

_WANTED = '{"tensor_input": [[...]]} or {"instances": [...]}'
_READERS = {NPZ: codecs.read_npz, SAFETENSORS: codecs.read_safetensors}
_WRITERS = {NPZ: codecs.write_npz, SAFETENSORS: codecs.write_safetensors}


@dataclass(frozen=True, eq=False)
class TensorRequest:
    """One request: the model's inputs in its order, and what its reply depends on.

    `instances` says whether the inputs came as instances, and the reply is to have that form. `form` is the media type
    of the body, `protocol` the request by the Open Inference Protocol, if it was one.
    """

    inputs: tuple[torch.Tensor, ...]
    instances: bool = False
    form: str = JSON
    protocol: InferenceRequest | None = None

    @property
    def rows(self) -> int:
        """The size of the first dimension; 1 if there is none."""
        return self.inputs[0].shape[0] if self.inputs[0].dim() else 1


class TensorHandler(BaseHandler):
    """A handler that answers tensors with tensors.

    The request's Content-Type names its form. If that is missing or names plain bytes, the first bytes of the body
    decide. The reply has the same form, or the one that the header Accept asks for. The first dimension counts rows, if
    the model takes rows.

    `application/json`, in one of these forms:

    `{"tensor_input": [[...], ...]}` is the input as a whole. For a model with several inputs it is an object,
    `{"tensor_input": {"ids": [[...]], "mask": [[...]]}}`, and the names may also stand alone: `{"ids": ..., "mask":
    ...}`. A list alone is `tensor_input` too. The reply is `{"tensor_output": [[...], ...]}`, or an object by name if
    the model has several outputs.

    `{"instances": [row, ...]}` has the rows one by one, each `{"ids": [...], "mask": [...]}` for several inputs. The
    reply is `{"predictions": [row, ...]}`.

    `{"inputs": [{"name", "shape", "datatype", "data"}]}` is the Open Inference Protocol, version 2, with its extension
    for binary data; the reply follows the protocol.

    `application/x-npy` is one array, `application/x-npz` and `application/safetensors` are several by name.

    Names, dtypes and shapes are checked against the manifest's record (`inputs` under the key `torchmar`), and no dtype
    is converted. Without a record a request has one tensor of any shape, float32 if it is JSON without a datatype, and
    each request runs alone.

    `own_envelopes` are those of TorchServe's envelopes that torchmar's workers leave out for this handler, because it
    reads and writes these forms itself.
    """

    own_envelopes = frozenset({"json", "kserve", "kservev2"})

    def __init__(self) -> None:
        super().__init__()
        self.signature = Signature()

    def initialize(self, context: Context) -> None:
        """Load the model, and the manifest's record of its inputs and outputs."""
        super().initialize(context)
        self.signature = read_signature(self.manifest)

    def preprocess_one(self, data: Any, context: RequestContext) -> TensorRequest:
        """Turn a request into the model's inputs; refuse one that accepts no form in which the reply can be given.

        Raises:
            RequestError: the request does not fit the model, or its reply cannot have a form that it accepts.
        """
        request = _read(data, context, self.signature.inputs)
        _choose(request, context, len(self.signature.outputs))
        return request

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the requests, on the rows of those that fit together at once.

        Return a list with a pair for each: the request, and its outputs by name. Anything but a list of
        `TensorRequest`, which an overridden `preprocess` may return, goes to the model as it is.
        """
        if not _is_ours(data):
            return super().inference(data, *args, **kwargs)
        answers: list[Any] = [None] * len(data)
        for group in self._groups(data):
            together = [data[index] for index in group]
            inputs = [_join(parts) for parts in zip(*(request.inputs for request in together), strict=True)]
            rest = [to_device(tensor, self.device) for tensor in inputs[1:]]
            outputs = named_tensors(super().inference(inputs[0], *rest, *args, **kwargs), self.signature.outputs)
            for index, request, part in zip(group, together, _split(outputs, together), strict=True):
                answers[index] = (request, part)
        return answers

    def postprocess_one(self, output: Any, context: RequestContext) -> Any:
        """Turn the outputs for a request into its reply: a dict for JSON, else bytes.

        The result of an overridden `inference` becomes lists.
        """
        if not (isinstance(output, tuple) and len(output) == 2 and _is_ours([output[0]])):
            return super().postprocess_one(output, context)
        request, outputs = output
        choice = _choose(request, context, len(outputs))
        if choice.form in (JSON, BINARY) and request.protocol is not None:
            return self._answer_protocol(request.protocol, outputs, choice, context)
        if choice.form == JSON:
            reply: Any = _reply(request, outputs)
        elif choice.form == NPY:
            reply = codecs.write_npy(next(iter(outputs.values())))
        else:
            reply = _WRITERS[choice.form](outputs)
        context.set_content_type(choice.name)
        return reply

    def _answer_protocol(
        self,
        request: InferenceRequest,
        outputs: Mapping[str, torch.Tensor],
        choice: media_types.Choice,
        context: RequestContext,
    ) -> Any:
        entry = (self.manifest or {}).get("model") or {}
        # As it was asked: what is registered may have another name than its archive.
        name = getattr(self.context, "model_name", None) or entry.get("modelName")
        head = {
            "model_name": str(name or ""),
            "model_version": str(entry.get("modelVersion") or "1.0"),  # as the frontend has it without a version
            "id": request.id or context.request_id or "",
        }
        document, binary = open_inference.write(request, outputs, head, binary=choice.form == BINARY)
        if all("data" in one for one in document["outputs"]):
            context.set_content_type(JSON)
            return document
        body, length = open_inference.join(document, binary)
        context.set_header("Inference-Header-Content-Length", str(length))
        context.set_content_type(BINARY)
        return body

    def describe_handle(self) -> dict[str, Any]:
        """Return the model's inputs and outputs as the manifest records them."""
        signature = self.signature
        return {
            "inputs": [one.describe() for one in signature.inputs],
            "outputs": [one.describe() for one in signature.outputs],
        }

    def _groups(self, requests: Sequence[TensorRequest]) -> list[list[int]]:
        """Return which requests run together: those whose rows have one shape, if the model takes rows."""
        if not self.signature.has_rows:
            return [[index] for index in range(len(requests))]
        groups: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            # Inputs with different numbers of rows in one request may mean something to its model.
            equal = len({tensor.shape[0] for tensor in request.inputs}) == 1
            shapes = tuple(tensor.shape[1:] for tensor in request.inputs)
            groups.setdefault(shapes if equal else index, []).append(index)
        return list(groups.values())


def _is_ours(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(item, TensorRequest) for item in data)


def _join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _split(outputs: dict[str, torch.Tensor], requests: Sequence[TensorRequest]) -> Iterator[dict[str, torch.Tensor]]:
    if len(requests) == 1:
        yield outputs
        return
    sizes = [request.rows for request in requests]
    for name, tensor in outputs.items():
        if not tensor.dim() or tensor.shape[0] != sum(sizes):
            raise RuntimeError(
                f"the model gave {name!r} in the shape {list(tensor.shape)} for {sum(sizes)} rows of "
                f"{len(sizes)} requests, although the manifest says that it gives a row for each"
            )
    parts = {name: torch.split(tensor, sizes) for name, tensor in outputs.items()}
    for index in range(len(sizes)):
        yield {name: part[index] for name, part in parts.items()}


# ---- forms -------------------------------------------------------------------------------------------------------


def _choose(request: TensorRequest, context: RequestContext, outputs: int) -> media_types.Choice:
    """Choose the form of the reply; `outputs` is the number of the model's outputs, 0 if it is not known."""
    first = (JSON, BINARY) if request.protocol is not None else (NPY, NPZ) if request.form == NPY else (request.form,)
    missing = {NPY} if outputs > 1 else set()
    if not codecs.has_safetensors():
        missing.add(SAFETENSORS)
    offered = dict.fromkeys(form for form in (*first, JSON, SAFETENSORS, NPZ, NPY) if form not in missing)
    return media_types.choose(context.headers.get("accept", ""), list(offered))


def _read(data: Any, context: RequestContext, known: tuple[Tensor, ...]) -> TensorRequest:
    names = [one.name for one in known]
    require(data, context.parameters, _WANTED)
    form = media_types.form_of(context.content_type)
    if isinstance(data, bytes | bytearray | memoryview):
        length = context.headers.get(open_inference.LENGTH_HEADER)
        if length is not None:
            return _of_protocol(open_inference.read_binary(data, length), known)
        if form in ("", BINARY):
            form = codecs.sniff(data)
        if form == NPY:
            if len(names) > 1:
                raise BadInputError(f"the model takes {len(names)} inputs: send an npz file with {_listed(names)}")
            tensor = codecs.read_npy(data)
            return TensorRequest(_ordered({names[0] if names else "tensor_input": tensor}, known), form=NPY)
        if form in _READERS:
            return TensorRequest(_ordered(_READERS[form](data), known), form=form)
    if form not in ("", JSON, BINARY) and not form.startswith("text/"):
        forms = ", ".join((JSON, NPY, NPZ, SAFETENSORS))
        raise UnsupportedMediaError(f"the content type is {form[:100]!r}: send {forms}")
    document = read_json(data, _WANTED)
    if open_inference.is_request(document, names):
        return _of_protocol(open_inference.read(document, grpc=context.is_grpc), known)
    return _of_json(document, known)


def _of_protocol(request: InferenceRequest, known: tuple[Tensor, ...]) -> TensorRequest:
    return TensorRequest(_ordered(request.inputs, known), protocol=request)


def _ordered(tensors: Mapping[str, torch.Tensor], known: tuple[Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return tensors in the order of the model's inputs, once they are known to fit."""
    names = [one.name for one in known]
    if not known and len(tensors) != 1:
        raise BadInputError(f"the archive does not tell the model's inputs: send one tensor, not {len(tensors)}")
    if known and tensors.keys() != set(names):
        raise _wrong_names(tensors, names)
    for one in known:
        one.check(tensors[one.name])
    return tuple(tensors[name] for name in names or tensors)


# ---- JSON in -----------------------------------------------------------------------------------------------------


def _of_json(document: Any, known: tuple[Tensor, ...]) -> TensorRequest:
    if isinstance(document, dict) and "instances" in document and "instances" not in {one.name for one in known}:
        _only(document, "instances")
        return TensorRequest(_tensors(_by_input(document["instances"], known), known), instances=True)
    return TensorRequest(_tensors(_values(document, known), known))


def _values(document: Any, known: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return the JSON of each input by name."""
    names = [one.name for one in known]
    value = document
    if isinstance(document, dict):
        if names and document.keys() == set(names):
            return document
        if "tensor_input" not in document:
            raise _wrong_names(document, names)
        _only(document, "tensor_input")
        value = document["tensor_input"]
        if isinstance(value, dict):
            if value.keys() != set(names):
                raise _wrong_names(value, names)
            return value
    if len(names) > 1:
        raise BadInputError(f"the model takes {len(names)} inputs: send an object with {_listed(names)}")
    return {names[0] if names else "tensor_input": value}


def _by_input(instances: Any, known: tuple[Tensor, ...]) -> dict[str, list[Any]]:
    """Turn a list of rows into a list for each input."""
    if not isinstance(instances, list) or not instances:
        raise BadInputError("'instances' must be a list with at least one row")
    names = [one.name for one in known]
    if not any(isinstance(row, dict) for row in instances):
        if len(names) > 1:
            raise BadInputError(f"the model takes {len(names)} inputs: each instance must have {_listed(names)}")
        return {names[0] if names else "instances": instances}
    for index, row in enumerate(instances):
        if not isinstance(row, dict):
            raise BadInputError(f"instance {index} is no object, as others are")
        if row.keys() != set(names):
            raise _wrong_names(row, names, f"instance {index}: ")
    return {name: [row[name] for row in instances] for name in names}


def _tensors(values: dict[str, Any], known: tuple[Tensor, ...]) -> tuple[torch.Tensor, ...]:
    found = []
    for one in known or (Tensor(next(iter(values))),):
        try:
            tensor = numbers_to_tensor(values[one.name], one.dtype)
        except BadInputError as error:
            raise BadInputError(f"the input {one.name!r}: {error}") from error
        one.check(tensor)
        found.append(tensor)
    return tuple(found)


def _only(document: dict[str, Any], name: str) -> None:
    if len(document) > 1:
        others = sorted(map(str, document.keys() - {name}))
        raise BadInputError(f"beside {name!r} there must be nothing, got {_listed(others)}")


def _wrong_names(given: Mapping[str, Any], names: list[str], place: str = "") -> BadInputError:
    expected = _listed(names) if names else "'tensor_input' or 'instances'"
    return BadInputError(f"{place}expected {expected}, got {_listed(sorted(map(str, given))) or 'an empty object'}")


def _listed(names: Sequence[str]) -> str:
    return first_of(names, 8, shown=lambda name: repr(name[:40]))


# ---- JSON out ----------------------------------------------------------------------------------------------------


def _reply(request: TensorRequest, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    values = {name: tensor.tolist() for name, tensor in outputs.items()}
    if not request.instances:
        return {"tensor_output": next(iter(values.values())) if len(values) == 1 else values}
    for name, value in values.items():
        if not isinstance(value, list) or len(value) != request.rows:
            raise BadInputError(f"the output {name!r} has no row for each instance: send 'tensor_input'")
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    if len(values) == 1:
        return {"predictions": [next(iter(row.values())) for row in rows]}
    return {"predictions": rows}
