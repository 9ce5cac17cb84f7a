"""How our answers differ from TorchServe's, as those were written down, each with its reason; all others are equal."""

from __future__ import annotations

import json
import re
from typing import Any

from .questions import Question
from .record import RECORDED, USUAL, ask, parsed

_RECORDED: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text())
#: The configuration of the servers that are asked.
ASKED = {
    "cors_allowed_origin": "https://site.example",
    "cors_allowed_methods": "GET, POST, PUT, OPTIONS",
    "cors_allowed_headers": "X-Custom-Header",
    "max_request_size": "100000",
}
# What differs, and why: a pattern of names, our status (None for TorchServe's), a pattern of our body, the reason.
DIFFERENT: list[tuple[str, int | None, str, str]] = [
    (r".*/livez|.*/readyz", 200, "status", "of ours: probes that need no key"),
    (r".*v2/models/echo(/versions/1.0)?", 200, '"versions"', "metadata of models, which TorchServe has not"),
    (r".*v2/models/echo(/versions/1.0)?/ready", 200, '"ready": true', "readiness of models, which TorchServe has not"),
    (r".*v2/models/echo/versions/.*/infer", 200, '"version": "[12].0"', "versions, which TorchServe answers with 501"),
    (r".*inference: get /v1/models", 200, '"object": "list"', "OpenAI's list of models, with KServe's keys"),
    (r".*inference: get /v1/models/echo", 200, '"ready": true', "OpenAI's and KServe's description of a model"),
    (r"inference: get /v2(/health/live)?", 200, "Torchserve|live", "the protocol needs no switch"),
    (r"closed-inference.* /v2/?", 200, '"extensions"', "the protocol's own name beside TorchServe's misspelt one"),
    (r".*wfpredict.*|.*/workflows", 501, "--frontend java", "workflows are TorchServe's alone"),
    (r".*echo%(ZZ)?", 404, "Model not found: echo%", "a % is a % where no escape follows; Java says 403"),
    (r".*own id", None, '"id": "my-own-id"', "a client's own id is kept"),
    (r".*status 600", 500, '"row"', "uvicorn has no line for statuses above 599"),
    (r".*form without =", None, '"a":', "a single name is a field, too, as it is beside others"),
    (r".*form with &&", 200, '"b"', "an empty field is none; Java says 500"),
    (r".*(form|multipart).* empty name|.*multipart part without.*", 400, "has no name", "Java says 500"),
    (r".*form with .*escape", 400, "an escape that is none: '%", "Java says 500"),
    (r".*multipart in capitals", None, '"a":', "types have no case; Java takes the form for a raw body"),
    (r".*multipart without a boundary", 400, "has no boundary", "Java takes the form for a raw body"),
    (r".*multipart (cut.*|without an end|with nothing)", 400, "ends early", "Java drops what is cut, and says nothing"),
    (r".*multipart with (another|a preamble|bare).*", 400, "is not the multipart form", "Java drops it, or is lenient"),
    (r".*multipart file in base64", 400, "'base64'; send it as it is", "Java says 500"),
    (r".*gzip", None, '"x"', "bodies are unpacked"),
    (r".*too large.*", 413, "more than 100000 bytes, which max_request_size", "it says what is too large"),
    (r".*chunks and a length|.*a negative length", 400, "Invalid HTTP", "what two servers could read differently"),
    (r".*expect something else", 200, '"row"', "what is expected is not looked at; Java says 417"),
    (r".*no protocol|.*whole address", 200, "Healthy", "what the parser understands"),
    (r".*unknown method", 400, "Invalid HTTP", "the parser knows the methods of the standards"),
    (r".*long target|.*long header", 200, "Healthy", "64 KiB of line and headers in place of 4 and 8"),
    (r".*asterisk", 405, "MethodNotAllowed", "Java says 500"),
    (
        r".*(limit=(-1|x|9+)|next_page_token=(-1|x))",
        400,
        "the parameter (limit|next_page_token) must be",
        "bad parameters are named",
    ),
    (r".*customized=x", 400, "customized must be true or false", "bad parameters are named"),
    (r".*get /models/echo/1.0/set-default", 405, "MethodNotAllowed", "it is no description, and no removal either"),
    (r".*register by form", 400, "the body is not read here", "it says what was sent, and what to send"),
    (r".*register json with what is unknown", 400, "no parameter 'wonder'", "unknown parameters are named"),
    (r".*unregister j", 404, "Model not found: j", "it was not registered, see above"),
    (r".*register json with a wrong number", 400, "batch_size must be", "Java says 500"),
    (r".*register json with a list", 400, "url must be a text", "Java says 500"),
    (r".*register json (that.*|null|list|text)", 400, "the body (is not JSON|must be a JSON object)", "Java says 500"),
    (
        r".*register with a (bad|negative).*",
        400,
        "(batch_size|synchronous|initial_workers) must be",
        "bad parameters are named",
    ),
    (r".*unregister bad.", 404, "Model not found: bad", "it was not registered, see above"),
    (r".*scale with a .*", 400, "min_worker must be", "bad parameters are named"),
    (
        r"keys.*x=/token (none|wrong|inference|API)",
        None,
        "Authorization failed",
        "only /token is /token; Java looks for it anywhere",
    ),
    (r"keys.*x=/token management", 400, "no parameter 'x'", "only /token is /token; Java looks for it anywhere"),
    (r"keys.*token/more.* management", 404, "ResourceNotFound", "only /token is /token; Java looks for it anywhere"),
    (r"keys.*token/more.*", 400, "Authorization failed", "only /token is /token; Java looks for it anywhere"),
]


def answer_of(address: str, question: Question, keys: dict[str, str]) -> dict[str, Any]:
    """Return what a server answers, as it is compared."""
    found = parsed(ask(address, question, keys))
    found["usual"] = {name: value for name, value in found["headers"].items() if name in USUAL}.keys() == USUAL.keys()
    return found


def assert_torchserves(question: Question, found: dict[str, Any], *, ours: bool = True) -> None:
    """Find that an answer is TorchServe's, but for the differences.

    Args:
        ours: whether it is of our frontend; TorchServe's own has no differences.
    """
    name = f"{question.api}: {question.name}"
    expected = _RECORDED[name]
    if ours:
        assert found["usual"] or "Invalid HTTP" in found["body"]
    for pattern, status, body, _ in DIFFERENT if ours else ():
        if re.fullmatch(pattern, name):
            assert found["status"] == (expected["status"] if status is None else status)
            assert re.search(body, found["body"])
            assert (found["status"], found["body"]) != (expected["status"], expected["body"]), "it differs no more"
            return
    assert found["status"] == expected["status"], found
    assert found["body"] == expected["body"]
    assert found["headers"].get("content-type") == expected["headers"].get("content-type")
