"""Text generation with transformers as handlers for TorchServe are written: it needs nothing of ours."""

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler


class TransformersWriter(BaseHandler):
    """`{"inputs", "parameters": {"max_new_tokens"}}` in, the text that follows out."""

    def initialize(self, context):
        """Load tokenizer and model from the archive's own files."""
        self.manifest = context.manifest
        folder = context.system_properties["model_dir"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        self.initialized = True

    def preprocess(self, data):
        """Return the requests of a batch, whose JSON the worker may have read already."""
        bodies = [row.get("data") or row.get("body") for row in data]
        return [body if isinstance(body, dict) else json.loads(bytes(body)) for body in bodies]

    @torch.inference_mode()
    def inference(self, data, *_, **__):
        """Have `generate` write a text for each request."""
        found = []
        for request in data:
            given = self.tokenizer(request["inputs"], return_tensors="pt")
            count = request["parameters"]["max_new_tokens"]
            output = self.model.generate(
                given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=count, do_sample=False
            )
            found.append(output[0, given["input_ids"].shape[1] :])
        return found

    def postprocess(self, data):
        """Return each request's text, and how many tokens it has."""
        return [{"generated_text": self.tokenizer.decode(one), "tokens": len(one)} for one in data]
