"""A batch at once; every request may have a status, headers and a content type of its own."""

import time


def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        wish = row["body"]
        time.sleep(wish.get("sleep", 0))
        if wish.get("status"):
            context.set_response_status(wish["status"], wish.get("phrase", ""), index)
        for name, value in wish.get("headers", {}).items():
            context.set_response_header(index, name, value)
        if wish.get("type"):
            context.set_response_content_type(index, wish["type"])
        if wish.get("raise"):
            raise ValueError(wish["raise"])
        answers.append(object() if wish.get("object") else {"batch": len(data), "number": wish["number"]})
    return answers
