"""The handlers that classify texts: by a model's own classes, or by any that the request names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.batch.inputs import row_value
from handlers.errors import BadInputError, LoadError, NotSupportedError
from handlers.loading.labels import class_index
from handlers.optimization.optimized_model import original
from handlers.pretrained import asking
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedTextHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handlers.context import Context

_STEPS = 50  # captum's own default, which TorchServe's example takes
FUNCTIONS = ("sigmoid", "softmax", "none")


def scores_of(logits: torch.Tensor, function: str | None, config: Any) -> torch.Tensor:
    """Return the scores of the classes, `[classes]`, by the function that is asked for, or that the model is for."""
    if function is None:
        kind = getattr(config, "problem_type", None)
        if kind == "regression":
            function = "none"
        else:
            function = "sigmoid" if kind == "multi_label_classification" or len(logits) == 1 else "softmax"
    if function == "none":
        return logits
    return logits.sigmoid() if function == "sigmoid" else logits.softmax(dim=0)


def ranked(scores: torch.Tensor, labels: Mapping[int, str], top_k: int | None) -> list[dict[str, Any]]:
    """Return the best classes, `[{"label", "score"}]`."""
    best, classes = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
    pairs = zip(classes.tolist(), best.tolist(), strict=True)
    return [{"label": labels.get(index, f"LABEL_{index}"), "score": score} for index, score in pairs]


class PretrainedTextClassifier(PretrainedTextHandler):
    """A handler that classifies texts: a text in, all labels with their scores out, the best first.

    A request is a text, or a pair: `{"inputs": {"text": "...", "text_pair": "..."}}`. The reply:

    `[{"label": "POSITIVE", "score": 0.99}, {"label": "NEGATIVE", "score": 0.01}]`

    Of a model with several labels at once each score is a probability of its own. `handler: {reply: torchserve}` in
    model-config.yaml replies with the best label alone, as TorchServe's example does.
    """

    task = "text-classification"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "top_k": asking.count(None, unlimited=True),
        "function_to_apply": asking.choice(None, *FUNCTIONS),
        **PretrainedTextHandler.parameters,
    }

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of a text, or of a pair."""
        texts = [asking.text_of(value)]
        if isinstance(value, Mapping) and value.get("text_pair") is not None:
            texts.append(asking.text_of(value["text_pair"]))
        return [self.piece(self.tokens(parameters, *texts))]

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return labels and scores."""
        scores = scores_of(pieces[0].output, parameters["function_to_apply"], self.model.config)
        if self.as_torchserve:
            return self.labels.get(int(scores.argmax()), "")
        return ranked(scores, self.labels, parameters["top_k"])

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explain a prediction for the `target` of the request; its JSON may come without a content type."""
        (row,) = raw_data
        fields = row if isinstance(row, dict) else {}
        return super().explain_handle(data_preprocess, [{**fields, "data": asking.parsed(row_value(row))}])

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Return how much each token adds to the score of a class: integrated gradients of the embeddings.

        Return `{"words": [...], "importances": [...], "delta": ...}`, as TorchServe's example does. `target` is the
        index of a class, or its label.

        Raises:
            BadInputError: the model has no such class, or several texts came in one request.
            NotSupportedError: the package captum is missing.
        """
        try:
            from captum.attr import LayerIntegratedGradients
        except ImportError as error:
            raise NotSupportedError("explanations need the package captum, which the server lacks") from error
        (asked,) = tensor_data
        if not asked.single:
            raise BadInputError("an explanation is about one text: send it alone, and not a list")
        (piece,) = asked.pieces[0]
        features = {name: one.to(self.device) for name, one in self.join([piece]).items()}
        ids, model = features.pop("input_ids"), original(self.model)

        def forward(numbers: torch.Tensor) -> Any:
            rows = {name: one.expand(len(numbers), -1) for name, one in features.items()}
            return model(numbers, **rows)["logits"].float()

        explainer = LayerIntegratedGradients(forward, model.get_input_embeddings())
        attributions, delta = explainer.attribute(
            ids, self._baseline(ids), target=self._class(target), n_steps=_STEPS, return_convergence_delta=True
        )
        sums = attributions.sum(dim=-1).squeeze(0)
        importances = sums / (torch.linalg.vector_norm(sums) or 1.0)
        words = self.tokenizer.convert_ids_to_tokens(piece.features["input_ids"])
        return [{"words": words, "importances": importances.tolist(), "delta": delta[0].item()}]

    def _baseline(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the text without its words: padding in place of all but the special tokens."""
        special = self.tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
        return torch.where(torch.tensor([special], device=ids.device).bool(), ids, self.tokenizer.pad_token_id or 0)

    def _class(self, target: Any) -> int:
        index = next((index for index, label in self.labels.items() if label == target), None)
        index = class_index(target) if index is None else index
        if not 0 <= index < len(self.labels):
            raise BadInputError(f"the target {index} is no class: the model has {len(self.labels)}")
        return index


class PretrainedZeroShotClassifier(PretrainedTextHandler):
    """A handler that asks a model of natural language inference how well labels fit a text.

    A request names the labels: `{"inputs": "...", "parameters": {"candidate_labels": ["sports", "politics"]}}`. The
    reply:

    `{"sequence": "...", "labels": ["sports", "politics"], "scores": [0.9, 0.1]}`

    `hypothesis_template` is the sentence that is judged for each label, in place of {}; `multi_label` judges each label
    alone. The text is cut where it is too long.
    """

    task = "zero-shot-classification"
    wanted = 'a text and labels: {"inputs": "...", "parameters": {"candidate_labels": ["...", "..."]}}'
    most_labels: int = 1000
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "candidate_labels": asking.text_or_texts((), "a list of texts, or one text with commas"),
        "hypothesis_template": Parameter(
            "This example is {}.", "a text with {} in it", lambda value: isinstance(value, str) and "{}" in value
        ),
        "multi_label": asking.flag(False),
        **PretrainedTextHandler.parameters,
        "truncation": asking.flag(True),
    }

    def initialize(self, context: Context) -> None:
        """Load the model, and find which of its classes says that a sentence follows.

        Raises:
            LoadError: none of its labels begins with "entail", or it cannot be loaded.
        """
        super().initialize(context)
        entailment = next((index for index, name in self.labels.items() if name.lower().startswith("entail")), None)
        if entailment is None:
            raise LoadError(
                f"no label of the model says that a sentence follows: {', '.join(self.labels.values())}",
                hint="name one of them entailment in id2label of its config.json, or build it with another --task",
            )
        self.entailment: int = entailment

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of the text and a sentence, for each label."""
        text, labels = asking.text_of(value), self._candidates(parameters)
        template = parameters["hypothesis_template"]
        pairs = [(text, template.replace("{}", label)) for label in labels]
        return [
            self.piece(self.tokens(parameters, *pair, cutting="only_first"), label)
            for pair, label in zip(pairs, labels, strict=True)
        ]

    def _candidates(self, parameters: Mapping[str, Any]) -> Sequence[str]:
        given = parameters["candidate_labels"]
        labels = [one.strip() for one in given.split(",") if one.strip()] if isinstance(given, str) else given
        if not labels:
            raise BadInputError(f"there are no candidate_labels: send {self.wanted}")
        if len(labels) > self.most_labels:
            raise BadInputError(f"there are {len(labels)} candidate_labels: at most {self.most_labels} are taken")
        return list(labels)

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:
        """Return labels and scores, the best first."""
        logits = torch.stack([piece.output for piece in pieces])
        if parameters["multi_label"] or len(pieces) == 1:
            against = -1 if self.entailment == 0 else 0
            scores = logits[:, [against, self.entailment]].softmax(dim=1)[:, 1]
        else:
            scores = logits[:, self.entailment].softmax(dim=0)
        best, order = scores.sort(descending=True)
        labels = [pieces[index].about for index in order.tolist()]
        return {"sequence": asking.text_of(value), "labels": labels, "scores": best.tolist()}
