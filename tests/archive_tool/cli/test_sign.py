"""sign, and verify with a key, on the command line."""

from importlib.util import find_spec

import pytest

from tests.archive_tool.hostile import Member, archive
from tests.archive_tool.verification.test_signing import key_pair

pytestmark = pytest.mark.skipif(not find_spec("model_signing"), reason="model_signing is not installed")


def test_sign_and_verify(tmp_path, torchmar, monkeypatch):
    def run(*arguments):
        done = torchmar(*arguments)
        return done.returncode, done.stdout

    path = tmp_path / "m.mar"
    path.write_bytes(archive(Member(b"h.py", b"1")))
    private, public = key_pair(tmp_path, "mine")
    other = key_pair(tmp_path, "other")[1]
    secret = key_pair(tmp_path, "secret", password=b"open sesame")
    assert run("sign", path, "--key", private) == (0, f"{path}.sig\n")
    assert run("sign", path, "--key", private) == (1, "")
    assert run("sign", path, "--key", private, "-f", "-q") == (0, "")
    code, out = run("verify", path, "--key", public)
    assert code == 0
    assert out.startswith(f"{path}  good  2 members, signed\n")
    assert run("verify", path, "--key", other)[0] == 4
    assert run("sign", path, "--key", path.with_name("none.pem"))[0] == 1
    monkeypatch.setenv("TORCHMAR_KEY_PASSWORD", "open sesame")
    assert run("sign", path, "--key", secret[0], "-f")[0] == 0
    assert run("verify", path, "--key", secret[1])[0] == 0
    monkeypatch.setenv("TORCHMAR_KEY_PASSWORD", "wrong")
    assert run("sign", path, "--key", secret[0], "-f")[0] == 1
