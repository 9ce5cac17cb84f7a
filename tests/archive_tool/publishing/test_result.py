import json
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from archive_tool.publishing.result import Published

SAMPLE = "MAR-INF/samples/0/input.json"


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "a net-2.0.mar"
    request = json.dumps({"tensor_input": [list(range(2000))]})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(SAMPLE, request)
    return Published(
        name="net",
        version="2.0",
        path=path,
        size=10,
        format="eager",
        inputs=(),
        outputs=(),
        metrics={"accuracy": 0.98765},
        largest_difference=0.0,
        warnings=(),
        seconds=1.0,
        request=request,
        sample=SAMPLE,
        address="http://127.0.0.1:8080/",
    )


def test_a_line_for_people(published):
    assert str(published) == f"net 2.0 (eager, accuracy 0.9877): {published.path}"
    assert repr(published) == f"<Published net 2.0 (eager, accuracy 0.9877): {published.path}>"
    assert published.url == "http://127.0.0.1:8080/predictions/net/2.0"
    words = ["torchmar", "start", published.path.name, "--model-store", str(published.path.parent)]
    assert shlex.split(published.start) == words


def test_a_short_request_stands_in_the_line(published):
    short = replace(published, request='{"tensor_input": [["it\'s"]]}')
    words = shlex.split(short.curl)
    assert words == ["curl", short.url, "-H", "Content-Type: application/json", "-d", short.request]
    assert repr(short.request) in short.snippet


def test_a_long_one_comes_from_the_archive(published):
    read, _, send = published.curl.partition(" | ")
    words = [sys.executable if word == "python3" else word for word in shlex.split(read)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == published.request
    assert shlex.split(send)[-2:] == ["--data-binary", "@-"]
    asks = "json.load(urllib.request.urlopen(request))"
    assert asks in published.snippet
    program = published.snippet.replace(asks, "request.data.decode()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == published.request
