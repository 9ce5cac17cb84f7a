import contextlib
import logging
from types import SimpleNamespace

import pytest

from handlers import BadInputError, RequestError
from handlers.batch.isolation import ReplyCountError, checked, error_item, part_of


class Prediction(Exception):
    """As TorchServe's PredictionException, which cannot be imported everywhere."""

    def __init__(self, message, error_code):
        super().__init__(message)
        self.message, self.error_code = message, error_code


def test_a_part_of_the_batch_is_numbered_anew_and_the_whole_comes_back(make_context):
    context = make_context(requests=3, headers={2: {"key": "two"}})
    context.metrics = SimpleNamespace(request_ids=context.request_ids)
    whole = (context.request_processor, context.request_ids)
    with part_of(context, [2, 0]):
        assert context.get_request_id(0) == "request-2"
        assert context.get_request_header(0, "key") == "two"
        assert context.metrics.request_ids == {0: "request-2", 1: "request-0"}
        assert len(context.request_processor) == 2
        context.set_response_status(code=418, idx=0)
    assert (context.request_processor, context.request_ids) == whole
    assert context.metrics.request_ids is whole[1]
    assert context.get_response_status(2) == (418, "")


def test_the_whole_comes_back_after_an_error(make_context):
    context = make_context(requests=2)
    with contextlib.suppress(ZeroDivisionError), part_of(context, [1]):
        raise ZeroDivisionError
    assert len(context.request_processor) == len(context.request_ids) == 2


def test_a_context_without_requests_is_left_alone(make_context):
    with part_of(None, [0]), part_of(make_context(), [0]):
        pass


@pytest.mark.parametrize(
    ("error", "status", "phrase", "kind"),
    [
        (BadInputError("why"), 400, "Bad Request", "BadInputError"),
        (RequestError("why", status=429), 429, "Too Many Requests", "RequestError"),
        (RequestError("why", status=599), 599, "", "RequestError"),
        (Prediction("why", 404), 404, "Not Found", "Prediction"),
        (Prediction("why", 200), 200, "OK", "Prediction"),
        (Prediction("why", -1), 500, "Internal Server Error", "Prediction"),
        (Prediction("why", "404"), 500, "Internal Server Error", "Prediction"),
    ],
)
def test_errors_that_speak_to_the_client(make_context, error, status, phrase, kind):
    context = make_context(requests=2)
    assert error_item(error, context, 1) == {"code": status, "type": kind, "message": "why"}
    assert context.get_response_status(1) == (status, phrase)
    assert context.get_response_content_type(1) == "application/json"
    assert context.get_response_status(0)[0] == 200


def test_other_errors_go_to_the_log_under_an_id(make_context, caplog):
    context = make_context(requests=1)
    try:
        raise KeyError("secret")
    except KeyError as error:
        item = error_item(error, context, 0)
    assert (item["code"], item["type"]) == (503, "InternalServerException")  # as where TorchServe itself answers
    assert item["message"].startswith("Prediction failed. The server's log has the reason under the id ")
    assert "secret" not in str(item)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    error_id = item["message"].rstrip(".").split()[-1]
    assert error_id in record.getMessage()
    assert "request-0" in record.getMessage()
    assert "KeyError: 'secret'" in caplog.text


def test_a_list_with_an_item_for_each_request():
    assert checked([1, 2], 2) == [1, 2]
    with pytest.raises(ReplyCountError, match="tuple in place of a list"):
        checked((1, 2), 2)
    with pytest.raises(ReplyCountError, match="1 items for 2 requests"):
        checked([1], 2)
