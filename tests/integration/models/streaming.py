"""A handler that sends its answer in parts, with TorchServe's function for it."""

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    parts = int(bytes(data[0]["parts"]).decode()) if "parts" in data[0] else int(data[0]["body"])
    context.set_response_content_type(0, "text/plain")
    context.set_response_header(0, "x-parts", str(parts))
    for number in range(parts):
        message = "Intermediate Prediction success"
        send_intermediate_predict_response([f"part {number} ü\n"], context.request_ids, message, 200, context)
    return ["the end\n"]
