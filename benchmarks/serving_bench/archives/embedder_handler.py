"""A sentence embedder of transformers as handlers for TorchServe are written: it needs nothing of ours."""

import torch
from transformers import AutoModel, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler


class TransformersEmbedder(BaseHandler):
    """A text in, the mean of its tokens' vectors out, of length 1."""

    def initialize(self, context):
        """Load tokenizer and model from the archive's own files."""
        self.manifest = context.manifest
        folder = context.system_properties["model_dir"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self.initialized = True

    def preprocess(self, data):
        """Make of a batch of requests the model's arguments, padded to the longest text: `[batch, tokens]`."""
        texts = [bytes(row.get("data") or row.get("body")).decode() for row in data]
        return self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")

    @torch.inference_mode()
    def inference(self, data, *_, **__):
        """Return the texts' vectors, `[batch, 384]`."""
        vectors, mask = self.model(**data).last_hidden_state, data["attention_mask"][:, :, None]
        return torch.nn.functional.normalize((vectors * mask).sum(dim=1) / mask.sum(dim=1), dim=1)

    def postprocess(self, data):
        """Return a list of numbers for each request."""
        return data.tolist()
