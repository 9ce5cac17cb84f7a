"""A text classifier of transformers, written as handlers for TorchServe are: it needs nothing of ours."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from ts.service import PredictionException
from ts.torch_handler.base_handler import BaseHandler


class TransformersClassifier(BaseHandler):
    """A text in, `[{"label", "score"}]` out, the best first. setup_config.json has the settings:

    - `max_length`: in tokens; what is longer is cut
    - `captum_explanation`: whether explanations are answered
    """

    def initialize(self, context):
        """Load settings, tokenizer and model from the archive's own files."""
        self.manifest = context.manifest
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        self.settings = json.loads((folder / "setup_config.json").read_text(encoding="utf-8"))
        chosen = torch.cuda.is_available() and properties.get("gpu_id") is not None
        self.device = torch.device(f"cuda:{properties['gpu_id']}" if chosen else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        self.model.to(self.device).eval()
        self.initialized = True

    def preprocess(self, data):
        """Make of a batch of requests the model's arguments, padded to the longest text: `[batch, tokens]`."""
        texts = [text_of(row.get("data") or row.get("body")) for row in data]
        options = {"truncation": True, "max_length": self.settings["max_length"], "return_tensors": "pt"}
        return self.tokenizer(texts, padding=True, **options).to(self.device)

    @torch.inference_mode()
    def inference(self, data, *_, **__):
        """Return probabilities, `[batch, classes]`."""
        return self.model(**data).logits.softmax(dim=1)

    def postprocess(self, data):
        """Return each request's labels and scores."""
        best, classes = data.sort(dim=1, descending=True)
        names = self.model.config.id2label
        return [
            [{"label": names[index], "score": score} for index, score in zip(*row, strict=True)]
            for row in zip(classes.tolist(), best.tolist(), strict=True)
        ]

    def get_insights(self, tensor_data, raw_data, target=0):
        """Return how much each token adds to the score of the class `target`, the number of which the request has.

        The text is compared with padding in its place.
        """
        if not self.settings["captum_explanation"]:
            raise PredictionException("explanations are switched off: captum_explanation in setup_config.json", 503)
        if isinstance(raw_data, dict):
            target = raw_data.get("target", target)
        classes = self.model.config.num_labels
        if type(target) is not int or not 0 <= target < classes:
            raise PredictionException(f"the target is no number from 0 to {classes - 1}", 400)
        features = dict(tensor_data)
        numbers = features.pop("input_ids")
        special = self.tokenizer.get_special_tokens_mask(numbers[0].tolist(), already_has_special_tokens=True)
        kept = torch.tensor([special], device=self.device).bool()
        baseline = torch.where(kept, numbers, self.tokenizer.pad_token_id)

        def scores(steps):
            return self.model(steps, **{name: one.expand(len(steps), -1) for name, one in features.items()}).logits

        gradients = LayerIntegratedGradients(scores, self.model.get_input_embeddings())
        found, delta = gradients.attribute(numbers, baseline, target=target, return_convergence_delta=True)
        sums = found.sum(dim=2)[0]
        words = self.tokenizer.convert_ids_to_tokens(numbers[0].tolist())
        return [{"words": words, "importances": (sums / (sums.norm() or 1.0)).tolist(), "delta": delta[0].item()}]


def text_of(value):
    """Return a request's text: JSON with the key `text`, or the text alone."""
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):  # a client's that sends no content type
            value = json.loads(value)
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise PredictionException('send a text, or {"text": "..."} as JSON', 400)
    return text
