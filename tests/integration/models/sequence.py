"""A handler that keeps a sum for every sequence; bad input is an error, which must not cost the others their sums."""


class Sums:
    def initialize(self, context):
        self.sums = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            sequence = context.get_sequence_id(index)
            value = row.get("body") or row.get("data")
            text = value if isinstance(value, str) else bytes(value).decode()
            started = context.get_request_header(index, context.header_key_sequence_start) or "none"
            context.set_response_header(index, context.header_key_sequence_id, sequence)
            if text == "raise":
                raise ValueError("as wished")
            if text == "bad":
                context.set_response_status(400, "Bad number", index)
                answers.append("no number")
                continue
            self.sums[sequence] = self.sums.get(sequence, 0) + int(text)
            answers.append({"sum": self.sums[sequence], "started": started})
        return answers
