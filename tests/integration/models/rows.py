"""Behind an envelope: as many answers as rows."""


def handle(data, context):
    if data is None:
        return None
    return [_text(row) for row in data]


def _text(row):
    return [str(value) for value in row["data"]] if isinstance(row, dict) and "data" in row else str(row)
