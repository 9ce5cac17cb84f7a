"""The handler to extend: it loads the archive's model and answers batches of requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from handlers.batch import request
from handlers.batch.inputs import NUMBERS, require, row_value, rows_to_tensor
from handlers.batch.outputs import split_batch
from handlers.batch_template import BatchTemplate
from handlers.device import stack_on, to_device
from handlers.errors import NotSupportedError
from handlers.optimization.torch_compile import is_compiler_error

if TYPE_CHECKING:
    from handlers.batch.request import RequestContext

logger = logging.getLogger(__name__)


class BaseHandler(BatchTemplate):
    """A handler that loads a model and answers requests with it; override the hooks that differ.

    The worker creates the handler without arguments, calls `initialize` once and `handle` for every batch. `handle`
    calls `preprocess`, `inference` and `postprocess`. Do not override it: an override loses the isolation of bad
    requests.

    `preprocess_one` and `postprocess_one` take one request in place of a batch. What they raise is the answer to that
    request alone, and nothing runs twice for it. Of the two forms of a hook, the one that the more derived class
    overrides counts; if one class overrides both, the one for the batch.

    `handle` is `prepare` followed by `complete`. A worker may call these two instead: `prepare` for a batch in a second
    thread, while `complete` runs for the batch before.

    `isolate_errors`: when a batch fails, run its requests again one by one, so that only the bad ones fail. Set it to
    False where running a request twice would do harm. With sequence batching or continuous batching in
    model-config.yaml no request runs twice.

    `pipelined`: whether the next batch may go through `preprocess` in a second thread while the hooks run for another
    batch. State of a batch must then not be kept on `self`, where batches would mix: `preprocess` returns it.
    `self.context` is each batch's own. None means: yes if `preprocess` is the SDK's. See `may_pipeline`.
    """

    isolate_errors: bool = True
    pipelined: bool | None = None

    def preprocess(self, data: Any) -> Any:
        """Turn requests into the model's input. Runs first for every batch.

        `data` is a list with a dict for each request, which maps the names of its parameters to their values. The input
        is `data` or `body`, or the only parameter (bytearray, str, or parsed JSON). Return a tensor `[batch, ...]`.
        Raise `BadInputError` for an invalid request; it then fails alone. Default: lists of numbers, or numbers, as
        float32. In a class that overrides `preprocess_one`: its results for the requests, combined by `collate`.
        """
        if not self._has_own("preprocess_one"):
            return rows_to_tensor(data, self.device)
        requests = request.of_batch(len(data)) or request.requests_of(self.context, data)
        read, join = self._halves_of_preprocess()
        return join([read(row_value(row), one) for row, one in zip(data, requests, strict=True)])

    def preprocess_one(self, data: Any, context: RequestContext) -> Any:
        """Turn one request into the model's input, without the batch dimension. Runs in `preprocess`.

        `data` is the request's parameter `data` or `body`, or its only one: bytearray, str, parsed JSON, or None.
        `context` has its headers and other parameters. Default: a list of numbers, or a number, as a float32 tensor.
        """
        require(data, context.parameters, NUMBERS)
        return rows_to_tensor([{"body": data}], self.device)[0]

    def collate(self, items: list[Any]) -> Any:
        """Combine the results of `preprocess_one` for the requests of a batch. Runs after it.

        Default: stack tensors of one shape to `[batch, ...]` on the device; leave anything else a list.
        """
        if all(isinstance(item, torch.Tensor) for item in items):
            return stack_on(items, self.device)
        return items

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the result of `preprocess`. Further arguments go to the model.

        Default: move `data`, a tensor `[batch, ...]`, to the device and call the model in inference mode. Return the
        model's output, usually a tensor `[batch, ...]`.

        Raises:
            RuntimeError: no model is loaded.
        """
        if self.model is None:
            raise RuntimeError("there is no model: initialize loaded none, and the handler does not override inference")
        with torch.inference_mode():
            on_device = to_device(data, self.device)
            try:
                return self.model(on_device, *args, **kwargs)
            except Exception as error:
                if self._eager_model is None or not is_compiler_error(error):
                    raise
                result = self._eager_model(on_device, *args, **kwargs)  # raises if the input is wrong
                logger.warning("torch.compile failed, serving the eager model from now on: %s", error)
                self.model, self._eager_model = self._eager_model, None
                return result

    def postprocess(self, data: Any) -> Any:
        """Turn the model's output into replies. Runs last, on the result of `inference`.

        Return a list with one item a request: bytes and str are sent as they are, a tensor as `torch.save` writes it,
        anything else as JSON. Default: nested lists of numbers. In a class that overrides `postprocess_one`: its
        results for the parts that `split` returns.
        """
        if not self._has_own("postprocess_one"):
            return data.tolist()
        parts = self.split(data)
        requests = request.of_batch(len(parts)) or request.requests_of(self.context, parts)
        return [self.postprocess_one(part, one) for part, one in zip(parts, requests, strict=True)]

    def split(self, output: Any) -> list[Any]:
        """Split the model's output by requests. Runs before `postprocess_one`.

        Default: along the first dimension of a tensor, or of every tensor in a dict or tuple; a list as it is.
        """
        return split_batch(output)

    def postprocess_one(self, output: Any, context: RequestContext) -> Any:  # noqa: ARG002
        """Turn the model's output for one request into its reply. Runs in `postprocess`.

        `output` has no batch dimension. `context` sets status and headers of the reply, and records metrics; it is the
        same object that `preprocess_one` got. Default: nested lists of numbers.
        """
        return output.tolist()

    def describe_handle(self) -> Any:
        """Describe the model for `GET /models/<name>?customized=true`: return a dict. Default: None."""
        return None

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explain one prediction. Runs in place of `inference` and `postprocess` for requests to `/explanations`.

        `data_preprocess` is the result of `preprocess`, `[1, ...]`; `raw_data` is a list with the one request. Return a
        list with one item. Default: `get_insights` for `target`, a parameter of the request or a key of its JSON
        object, by default 0.
        """
        row = raw_data[0]
        value = row_value(row)
        given = [one.get("target") for one in (row, value) if isinstance(one, dict)]
        return self.get_insights(data_preprocess, value, next(filter(None, given), 0))

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> Any:  # noqa: ARG002
        """Attribute a prediction to its input. Runs in `explain_handle`.

        `tensor_data` is the model's input, `[1, ...]`, `raw_data` the request as it came, `target` the class to
        explain. Return a list with one item. Default: raise `NotSupportedError`.

        Raises:
            NotSupportedError: the handler offers no explanations.
        """
        raise NotSupportedError(f"{type(self).__name__} does not explain its predictions")
