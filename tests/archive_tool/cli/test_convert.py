"""convert on the command line."""

import json

from tests.archive_tool.building.test_mms import SERVICE
from tests.archive_tool.projects.test_convert import MANIFEST


def test_convert(make_zip, work, torchmar):
    def make_old(service=SERVICE):
        return make_zip([("fizbuz_service.py", service), ("MAR-INF/MANIFEST.json", json.dumps(MANIFEST))], "old.mar")

    done = torchmar("convert", make_old(), "-o", "store/fizbuz.mar")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("store/fizbuz.mar  ")
    assert torchmar("convert", "nothing.mar").returncode == 3
    done = torchmar("convert", make_old("import mxnet\n" + SERVICE), "-o", "store/fizbuz.mar", "-f", "-q")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("warning: fizbuz_service.py imports mxnet")
