"""The base of the handlers for pretrained models: loading, batches, and the forms of requests and answers."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.base import BaseHandler
from handlers.device import to_device
from handlers.errors import BadInputError, LoadError, TooLargeError
from handlers.optimization.settings import compile_options, read
from handlers.pretrained import asking, lengths, loading
from handlers.pretrained.asking import Asked, Parameter, Piece
from handlers.pretrained.tasks import TASKS
from handlers.text.normalization import WANTED
from handlers.text.tokenizer import padded

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context

logger = logging.getLogger(__name__)

# Tokens of padding that another run must spare: on two cores a run of BERT-base, or of MiniLM, costs as much as fifty.
_RUN = 64
_DTYPES = ("auto", "bfloat16", "float16", "float32")
_FORMS = ("hub", "torchserve")


class PretrainedHandler(BaseHandler):
    """A handler for a model of transformers, from a folder that `save_pretrained` wrote; a subclass is for one task.

    A request is `{"inputs": ..., "parameters": {...}}`, as the Hub takes it, or the input alone. The parameters are
    those of the task in `parameters`; the section `handler` of model-config.yaml sets what holds where a request sets
    none. Several inputs in one request get several answers.

    A subclass says what the model takes for one input, in `encode`, and what its outputs mean, in `answer`. All inputs
    of a batch that are `alike` run together, sorted by length: each run is padded to its longest input, and ends where
    the next one is less than half as long, where that spares enough, or after `largest_run`.

    `handler: {dtype: bfloat16}` loads the weights in 16 bits, `auto` as they were saved; by default they are float32,
    and `optimize: {dtype: bfloat16}` computes in 16 bits and checks the difference.
    """

    task: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, Parameter]] = {}
    wanted: ClassVar[str] = WANTED
    largest_run: int = 32

    _first_half = (*BaseHandler._first_half, "encode", "read")

    def __init__(self) -> None:
        super().__init__()
        self.saved: loading.Saved | None = None
        self.defaults: dict[str, Any] = {}
        self.labels: dict[int, str] = {}
        self.as_torchserve = False

    # ---- loading -------------------------------------------------------------------------------------------------

    def initialize(self, context: Context) -> None:
        """Load the model, and what its inputs are made with.

        Raises:
            LoadError: one of them cannot be loaded, or a setting of the section `handler` is wrong.
        """
        super().initialize(context)
        section = self._handler_config()
        self.defaults = asking.defaults(section, self.parameters)
        self.as_torchserve = self._chosen("reply", _FORMS) == "torchserve"
        names = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        self.labels = {int(index): str(name) for index, name in names.items()}
        if self.mapping:  # the archive's own names, as TorchServe's handlers take them
            self.labels |= {int(index): name for index, name in self.mapping.items() if index.isdigit()}

    def _load_model(self, model_dir: str, entry: dict[str, Any]) -> None:  # noqa: ARG002
        begin = time.perf_counter()
        optimization, pt2 = read(self.model_yaml_config), compile_options(self.model_yaml_config)
        self.saved = loading.find(self.manifest, Path(model_dir), self.task)
        self.load_inputs(self.saved)
        self.model = self.load_model(self.saved).to(self.device).eval()
        logger.info(
            "Loaded %s for %s on %s in %.2f s",
            type(self.model).__name__,
            self.saved.task,
            self.device,
            time.perf_counter() - begin,
        )
        self._speed_up(self.model, optimization, pt2, Path(model_dir))

    def load_model(self, saved: loading.Saved) -> Any:
        """Load the model. Runs in `initialize`.

        Raises:
            LoadError: it cannot be loaded.
        """
        return loading.load_model(saved, self.model_class(saved), self._dtype())

    def model_class(self, saved: loading.Saved) -> str:  # noqa: ARG002
        """Return the name of the class of transformers that loads the model."""
        return TASKS[self.task].model

    def load_inputs(self, saved: loading.Saved) -> None:
        """Load what the model's inputs are made with. Runs in `initialize`.

        Raises:
            LoadError: it cannot be loaded.
        """

    def _dtype(self) -> Any:
        name = self._chosen("dtype", _DTYPES, "float32")
        return name if name == "auto" else getattr(torch, name)

    def _chosen(self, name: str, values: Sequence[str], default: str = "") -> str:
        given = self._handler_config().get(name, default or values[0])
        if given not in values:
            raise LoadError(
                f"handler.{name} in model-config.yaml is {given!r:.80}", hint=f"write one of {', '.join(values)}"
            )
        return str(given)

    # ---- a batch -------------------------------------------------------------------------------------------------

    def preprocess_one(self, data: Any, context: RequestContext) -> Asked:
        """Read a request, and make of each of its inputs what the model takes.

        Raises:
            BadInputError: the request holds no such input, or a parameter is wrong.
        """
        asked = self.read(data, context)
        asked.pieces = [self.encode(one, asked.parameters) for one in asked.inputs]
        return asked

    def read(self, data: Any, context: RequestContext) -> Asked:
        """Read a request; see `asking.read_request`."""
        return asking.read_request(data, context.parameters, self.parameters, self.defaults, self.wanted)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make of one input what the model takes, once or in several pieces. Runs in `preprocess_one`.

        Raises:
            BadInputError: it is no input of this task.
        """
        raise NotImplementedError

    def collate(self, items: list[Any]) -> Any:
        """Leave the requests as they are: `inference` makes batches of their pieces."""
        return items

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the pieces of all requests, and give each piece its output.

        Anything but a list of `Asked`, which an overridden `preprocess` may return, goes to the model as it is.
        """
        if not isinstance(data, list) or not all(isinstance(one, Asked) for one in data):
            return super().inference(data, *args, **kwargs)
        pieces = [piece for one in data for group in one.pieces for piece in group]
        for run in self.runs(pieces):
            outputs = self.run(run)
            for piece, output in zip(run, outputs, strict=True):
                piece.output = output
        return data

    def alike(self, piece: Piece) -> Hashable:  # noqa: ARG002
        """Return what pieces must have in common to run together. Default: nothing."""
        return None

    def runs(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Yield the pieces that run together: alike, the longest first."""
        groups: dict[Hashable, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(self.alike(piece), []).append(piece)
        for group in groups.values():
            run: list[Piece] = []
            ordered = sorted(group, key=lambda one: -one.length)
            for index, piece in enumerate(ordered):
                if run and (len(run) >= self.largest_run or _pays(run[0].length, ordered[index:])):
                    yield run
                    run = []
                run.append(piece)
            yield run

    def run(self, pieces: list[Piece]) -> list[Any]:
        """Run the model on some pieces; return an output for each."""
        features = self.join(pieces)
        return self.take(self.forward(features), pieces)

    def join(self, pieces: list[Piece]) -> dict[str, torch.Tensor]:
        """Return the model's arguments for some pieces. Default: tensors of one shape, stacked."""
        return {name: torch.stack([one.features[name] for one in pieces]) for name in pieces[0].features}

    def forward(self, features: Mapping[str, torch.Tensor]) -> Any:
        """Call the model with arguments by name, and the first one by its place."""
        first, *rest = features
        others = {name: to_device(features[name], self.device) for name in rest}
        return super().inference(features[first], **others)

    def take(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Split the model's output by pieces. Default: the rows of `logits`, as float32 on the CPU."""
        logits = output["logits"].float().cpu()
        return (
            [row[: piece.length] for row, piece in zip(logits, pieces, strict=True)] if logits.dim() > 2 else [*logits]
        )

    def postprocess_one(self, output: Any, context: RequestContext) -> Any:  # noqa: ARG002
        """Answer one request, an `Asked` whose pieces have their outputs."""
        answers = [
            self.answer(value, pieces, output.parameters)
            for value, pieces in zip(output.inputs, output.pieces, strict=True)
        ]
        return answers[0] if output.single else answers

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:
        """Return the answer to one input, whose pieces have their outputs. Runs in `postprocess_one`."""
        raise NotImplementedError

    def describe_handle(self) -> Any:
        """Describe the model: task, architecture, labels and parameters with their defaults."""
        return {
            "task": self.task,
            "architecture": self.saved.architecture if self.saved else None,
            "labels": [self.labels[index] for index in sorted(self.labels)],
            "parameters": self.defaults,
        }


class PretrainedTextHandler(PretrainedHandler):
    """A handler for a model that reads a text at once; a subclass says what its outputs mean.

    A text of more tokens than the model takes is refused, or cut where the parameter `truncation` says so. `max_length`
    sets another limit. A subclass that needs to know where in a text its tokens are sets `needs_places`.
    """

    needs_places: bool = False
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "truncation": asking.flag(False),
        "max_length": asking.count(None, unlimited=True),
    }

    _first_half = (*PretrainedHandler._first_half, "piece", "tokens")

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: Any = None
        self.longest: int | None = None
        # The next batch may be read while this one is answered, and a tokenizer that is in use cannot be set to another
        # way of cutting: "Already borrowed".
        self.tokenizing = threading.Lock()

    def load_inputs(self, saved: loading.Saved) -> None:
        """Load the tokenizer."""
        self.tokenizer = loading.load_tokenizer(saved)

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer, and find the number of tokens that the model takes.

        Raises:
            LoadError: they cannot be loaded, or the tokenizer does not tell the places of its tokens and must.
        """
        super().initialize(context)
        if self.needs_places and not self.tokenizer.is_fast:
            raise LoadError(
                f"{type(self.tokenizer).__name__} does not tell where its tokens are in the text",
                hint="save a fast tokenizer beside the model, which is a tokenizer.json",
            )
        config = self.model.config
        if getattr(config, "use_cache", False):
            config.use_cache = False  # keys and values of a text that is read once
        places = getattr(config, "max_position_embeddings", None)
        limits = [self.tokenizer.model_max_length, places if type(places) is int and places > 0 else None]
        # A tokenizer that knows no limit has an absurd one.
        self.longest = min((one for one in limits if one is not None and one < 10**9), default=None)
        if self.tokenizer.pad_token_id is None:
            self.largest_run = 1

    def preprocess_one(self, data: Any, context: RequestContext) -> Asked:
        """Read a request, and make tokens of its texts."""
        with self.tokenizing:
            return super().preprocess_one(data, context)

    def postprocess_one(self, output: Any, context: RequestContext) -> Any:
        """Answer one request."""
        with self.tokenizing:
            return super().postprocess_one(output, context)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of one text."""
        return [self.piece(self.tokens(parameters, asking.text_of(value)))]

    def tokens(self, parameters: Mapping[str, Any], *texts: str, cutting: bool | str = True, **options: Any) -> Any:
        """Return the tokenizer's encoding of a text, or of a pair, of which `cutting` says what is cut.

        Raises:
            TooLargeError: it has more tokens than the model takes, and is not to be cut.
        """
        longest = min((one for one in (self.longest, parameters.get("max_length")) if one is not None), default=None)
        cut = bool(parameters.get("truncation")) and longest is not None
        needed = [lengths.enough(self.tokenizer, text, longest) for text in texts]
        found = self.tokenizer(
            *needed,
            truncation=cutting if cut else False,
            max_length=longest if cut else None,
            return_attention_mask=True,
            verbose=False,
            **options,
        )
        length = len(found["input_ids"])
        if not length:
            raise BadInputError("the text holds no token")
        if longest is not None and length > longest and not cut:
            least = "" if needed == [*texts] else "at least "
            raise TooLargeError(
                f"the text has {least}{length} tokens, and the model takes {longest}: send a shorter one, or the "
                "parameter truncation: true"
            )
        return found

    def piece(self, encoding: Any, about: Any = None) -> Piece:
        """Return the piece of an encoding: what the model takes of it."""
        names = [name for name in self.tokenizer.model_input_names if name in encoding]
        features = {name: encoding[name] for name in dict.fromkeys((*names, "attention_mask"))}
        return Piece(features, len(encoding["input_ids"]), about)

    def join(self, pieces: list[Piece]) -> dict[str, torch.Tensor]:
        """Pad the tokens of some texts on the right to the longest of them, `[texts, tokens]`."""
        longest = max(piece.length for piece in pieces)
        fill = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
        return {
            name: padded([piece.features[name] for piece in pieces], longest, fill.get(name, 0))
            for name in ("input_ids", *(name for name in pieces[0].features if name != "input_ids"))
        }


def _pays(longest: int, rest: Sequence[Piece]) -> bool:
    """Return whether the rest, the longest first, is better run by itself than padded to so many tokens."""
    return 2 * rest[0].length < longest and sum(longest - one.length for one in rest) > _RUN
