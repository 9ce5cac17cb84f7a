"""The handler that embeds texts as vectors, as sentence-transformers does with the same folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from handlers.errors import BadInputError, LoadError
from handlers.pretrained import asking, loading
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedTextHandler
from handlers.pretrained.tasks import MODULES, SENTENCE_INPUT, SENTENCE_MODULES

if TYPE_CHECKING:
    from handlers.context import Context

_SETTINGS = "config_sentence_transformers.json"
_MOST_BYTES = 16 << 20


def _mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _root_mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9).sqrt()


def _largest(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return vectors.masked_fill(mask == 0, -1e9).amax(dim=1)


def _first(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return vectors[torch.arange(len(vectors)), mask[:, :, 0].argmax(dim=1)]


def _last(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = mask[:, :, 0] * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return vectors[torch.arange(len(vectors)), places.argmax(dim=1)]


def _weighted_mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)[None, :, None]
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


#: The ways to make one vector of those of the tokens, by the names of sentence-transformers.
POOLINGS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _root_mean,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
#: The keys of a pooling's config.json that stand for these, in the order in which they are joined.
_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Recipe:
    """What becomes of a model's token vectors: ways of pooling, layers on top, and whether the length becomes 1.

    `prompts` are texts that are put before others, by name. `longest` is the number of tokens at which a text is cut.
    """

    poolings: tuple[str, ...] = ("mean",)
    layers: nn.Sequential = field(default_factory=nn.Sequential)
    normalize: bool = False
    lower: bool = False
    longest: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None


class PretrainedEmbedder(PretrainedTextHandler):
    """A handler that embeds texts: a text in, its vector out; a list of texts in, a list of vectors out.

    With the modules.json of sentence-transformers the vectors are those of its `encode`: the same pooling, layers,
    length and prompts. Without one they are the mean of the token vectors. `handler: {pooling: cls, normalize: true}`
    in model-config.yaml says otherwise, and `pooling: none` gives the vectors of all tokens. A request may set
    `normalize`, name a prompt of the model as `prompt_name`, and with `details` learn how many tokens there are. A text
    that is too long is cut.
    """

    task = "feature-extraction"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "normalize": asking.flag(None),
        "prompt_name": asking.text(None),
        **PretrainedTextHandler.parameters,
        "truncation": asking.flag(True),
        "details": asking.flag(False),
    }

    def __init__(self) -> None:
        super().__init__()
        self.recipe = Recipe()

    def initialize(self, context: Context) -> None:
        """Load the model, and how its vectors are made one.

        Raises:
            LoadError: it cannot be loaded, or the way is not known.
        """
        super().initialize(context)
        pooling = self._handler_config().get("pooling")
        if pooling is not None and pooling != "none" and pooling not in POOLINGS:
            raise LoadError(
                f"handler.pooling in model-config.yaml is {pooling!r:.80}",
                hint=f"write one of {', '.join(POOLINGS)} or none",
            )
        if pooling is not None:
            self.recipe = replace(self.recipe, poolings=() if pooling == "none" else (pooling,))
        self.recipe.layers.to(self.device).eval()
        if self.recipe.longest is not None:
            self.longest = min(self.longest or self.recipe.longest, self.recipe.longest)

    def load_inputs(self, saved: loading.Saved) -> None:
        """Load the tokenizer, from the folder that modules.json names if there is one, and the recipe."""
        path = saved.folder / MODULES
        if path.is_file():
            inner, self.recipe = read_recipe(saved.folder)
            saved = self.saved = replace(saved, folder=inner)
        super().load_inputs(saved)

    def load_model(self, saved: loading.Saved) -> Any:
        """Load the model without its head."""
        return super().load_model(self.saved or saved)

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of a text, after the prompt that is asked for."""
        name = parameters["prompt_name"] or self.recipe.prompt
        if name is not None and name not in self.recipe.prompts:
            raise BadInputError(
                f"the model has no prompt {name[:40]!r}; it has {', '.join(self.recipe.prompts) or 'none'}"
            )
        text = self.recipe.prompts.get(name or "", "") + asking.text_of(value)
        return [self.piece(self.tokens(parameters, text.lower() if self.recipe.lower else text))]

    def run(self, pieces: list[Piece]) -> list[Any]:
        """Run the model, and make of the vectors of each text's tokens what the recipe says."""
        features = self.join(pieces)
        output = self.forward(features)
        vectors = output["last_hidden_state"].float()
        if not self.recipe.poolings:
            return [row[: piece.length].cpu() for row, piece in zip(vectors, pieces, strict=True)]
        mask = features["attention_mask"].to(vectors)[:, :, None]
        with torch.inference_mode():
            pooled = torch.cat([POOLINGS[name](vectors, mask) for name in self.recipe.poolings], dim=1)
            return [*self.recipe.layers(pooled).cpu()]

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the vector, or with `pooling: none` those of the tokens; with `details` their number, too."""
        vector = pieces[0].output
        normalize = self.recipe.normalize if parameters["normalize"] is None else parameters["normalize"]
        found = (functional.normalize(vector, dim=-1) if normalize else vector).tolist()
        return {"embedding": found, "tokens": pieces[0].length} if parameters["details"] else found


def read_recipe(folder: Path) -> tuple[Path, Recipe]:
    """Read the modules of sentence-transformers; return the model's folder, too.

    Raises:
        LoadError: they cannot be read, or one of them is not known.
    """
    recipe, model = Recipe(), folder
    for entry in _read(folder / MODULES):
        kind, place = str(entry["type"]).rpartition(".")[2], _below(folder, str(entry["path"]))
        if kind not in SENTENCE_MODULES:
            raise LoadError(f"{MODULES} names the module {kind}", hint=f"served are {', '.join(SENTENCE_MODULES)}")
        if kind == "Transformer":
            # The first versions named the file after the model: sentence_roberta_config.json and others.
            settings = _settings(next(iter(sorted(place.glob("sentence_*_config.json"))), place / "none.json"))
            model = place
            recipe = replace(
                recipe, lower=settings.get("do_lower_case") is True, longest=settings.get("max_seq_length")
            )
        elif kind == "Pooling":
            recipe = replace(recipe, poolings=_poolings(place))
        elif kind == "Dense":
            if recipe.normalize:  # before the layer, and not at the end
                recipe.layers.append(_UnitLength())
                recipe = replace(recipe, normalize=False)
            recipe.layers.append(_dense(place))
        else:
            _vector_settings(place)
            recipe = replace(recipe, normalize=True)
    settings = _settings(folder / _SETTINGS)
    prompts, prompt = settings.get("prompts") or {}, settings.get("default_prompt_name")
    return model, replace(recipe, prompts={str(name): str(text) for name, text in prompts.items()}, prompt=prompt)


def _poolings(place: Path) -> tuple[str, ...]:
    settings = _settings(place / "config.json")
    named = settings.get("pooling_mode")  # newer versions name them
    listed = [named] if isinstance(named, str) else named
    found = listed or [name for key, name in _KEYS.items() if settings.get(key) is True]
    if not found or not all(name in POOLINGS for name in found):
        raise LoadError(f"the pooling in {place} is {found!r:.100}", hint=f"known are {', '.join(POOLINGS)}")
    if settings.get("include_prompt") is False:
        raise LoadError(f"the pooling in {place} leaves prompts out, which is not served")
    return tuple(found)


def _vector_settings(place: Path) -> dict[str, Any]:
    """Return the settings of a layer on the sentence's vector.

    Raises:
        LoadError: it reads something else, such as the vectors of the tokens.
    """
    settings = _settings(place / "config.json")
    if (reads := settings.get("module_input_name", SENTENCE_INPUT)) != SENTENCE_INPUT:
        raise LoadError(f"the layer in {place} reads {reads!r:.80}", hint=f"served are layers on the {SENTENCE_INPUT}")
    return settings


class _UnitLength(nn.Module):
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return functional.normalize(vectors, dim=-1)


class _Dense(nn.Module):
    """A layer and the function after it, with the names of sentence-transformers' weights."""

    def __init__(self, settings: Mapping[str, Any], function: nn.Module) -> None:
        super().__init__()
        has, makes = settings["in_features"], settings["out_features"]
        self.linear = nn.Linear(has, makes, bias=bool(settings.get("bias", True)))
        self.activation_function = function
        self.residual: nn.Module | None = None
        if settings.get("use_residual") is True:
            self.residual = nn.Identity() if has == makes else nn.Linear(has, makes, bias=False)

    def forward(self, vectors: torch.Tensor) -> Any:
        found = self.activation_function(self.linear(vectors))
        return found if self.residual is None else found + self.residual(vectors)


def _dense(place: Path) -> nn.Module:
    settings = _vector_settings(place)
    name = str(settings.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    activation = getattr(nn, name, None)
    if not isinstance(activation, type) or not issubclass(activation, nn.Module):
        raise LoadError(f"the layer in {place} has the function {name!r:.80}, which torch.nn does not have")
    try:
        layer = _Dense(settings, activation())
        weights = place / "model.safetensors"
        if weights.is_file():
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(place / "pytorch_model.bin", weights_only=True, map_location="cpu")
        layer.load_state_dict(state)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise LoadError(f"the layer in {place} cannot be loaded: {error}") from error
    return layer


def _below(folder: Path, place: str) -> Path:
    found = folder / place
    if not found.resolve().is_relative_to(folder.resolve()):
        raise LoadError(f"{MODULES} names the folder {place!r}, which is not in the archive")
    return found


def _settings(path: Path) -> dict[str, Any]:
    found = _read(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise LoadError(f"{path} holds no JSON object")
    return found


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LoadError(f"{path} is longer than {_MOST_BYTES} bytes")
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
