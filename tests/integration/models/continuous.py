"""A handler that counts to what each request wants, one number a step, as a language model writes words."""


class Counter:
    def initialize(self, context):
        self.state = {}

    def handle(self, data, context):
        ids = [context.get_request_id(index) for index in range(len(data))]
        self.state = {key: value for key, value in self.state.items() if key in ids}
        answers = []
        criteria = []
        for request_id, row in zip(ids, data, strict=True):
            if request_id not in self.state:
                self.state[request_id] = [0, int(row["body"])]
            state = self.state[request_id]
            state[0] += 1
            answers.append(f"{state[0]} of {state[1]}\n")
            criteria.append(lambda _answer, state=state: state[0] >= state[1])
        context.stopping_criteria = criteria
        return answers
