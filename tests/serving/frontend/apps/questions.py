"""What TorchServe's frontend was asked, so that its answers could be written down: `recorded.json`, by `record.py`.

The models: ``echo`` in the versions 1.0 (the default one) and 2.0, ``stream``, and ``idle``, which has no worker.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A request, sent as it stands.

    Attributes:
        api: ``inference`` or ``management`` of a server that lets models be registered and needs no key;
            ``closed-...`` of one that registers none and has the Open Inference Protocol; ``keys-...`` of one that
            needs keys.
        target: path and query.
        headers: beside Host, Connection and Content-Length.
        raw: the whole request, in place of everything else.
    """

    name: str
    api: str
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    raw: bytes | None = None

    def as_bytes(self) -> bytes:
        """As it is sent."""
        if self.raw is not None:
            return self.raw
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


def _kind(value: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", value),)


_FORM = _kind("application/x-www-form-urlencoded")
_MULTI = _kind("multipart/form-data; boundary=BB")


def _parts(*parts: str, end: str = "--BB--\r\n") -> bytes:
    return "".join(f"--BB\r\n{part}\r\n" for part in parts).encode("latin-1") + end.encode()


_FIELD = 'Content-Disposition: form-data; name="a"\r\n\r\n1'
_FILE = 'Content-Disposition: form-data; name="data"; filename="x.bin"\r\nContent-Type: image/png\r\n\r\n\x00\xff'

_LIMIT = 100_000  # max_request_size of the servers


def _inference() -> list[Question]:
    def get(name: str, target: str, method: str = "GET", **more: object) -> Question:
        return Question(name, "inference", method, target, **more)  # type: ignore[arg-type]

    def post(name: str, body: bytes | None, target: str = "/predictions/echo", **more: object) -> Question:
        return Question(name, "inference", "POST", target, body=body, **more)  # type: ignore[arg-type]

    paths = [
        *("/", "/nothing", "/nothing/at", "/nothing/at/all", "/?x=1", "//", "/ping", "/ping/", "/ping/more"),
        *("/predictions", "/predictions/", "/predictions//", "/predictions/none", "/predictions/none/1.0"),
        *("/predictions/echo", "/predictions/echo/", "/predictions/echo/2.0", "/predictions/echo/9.9"),
        *(
            "/predictions/echo/1.0/a/b",
            "/predictions/echo/1.0/a/b/",
            "/predictions/echo/1.0/a//b",
            "//predictions/echo",
        ),
        *("/predictions/ec%68o", "/predictions/echo%2F2.0", "/predictions/echo%20x", "/predictions/echo?x=1&y=%20"),
        *("/predictions/echo/", "/predictions/echo//a", "/predictions/echo%C3%A4", "/predictions/echo/1.0/%C3%A4%20b"),
        *("/predictions/echo#x", "/predictions/echo;a=1", "/predictions/../ping", "/predictions/echo%ZZ"),
        *("/predictions/echo%", "/predictions/echo%FF", "/predictions/idle", "/predictions/idle/1.0"),
        *("/explanations", "/explanations/echo", "/explanations/echo/2.0", "/explanations/none"),
        *("/invocations", "/invocations?model_name=echo", "/invocations?model_name=", "/invocations?model_name=none"),
        *("/invocations?model_name=echo&x=1&y=2&x=3", "/invocations/more", "/invocations?model_name=echo&x"),
        *("/models", "/models/echo", "/models/echo/invoke", "/models/echo/invoke?x=1", "/models/none/invoke"),
        *("/models/echo/other", "/models/echo/2.0/invoke", "/echo/predict", "/echo/predict?x=1", "/echo/2.0/predict"),
        *("/none/predict", "/echo/other", "/echo/2.0/other", "/echo/2.0/predict/more", "/echo/9.9/predict"),
        *("/v1/models/echo:predict", "/v1/models/echo:explain", "/v1/models/echo:other", "/v1/models/echo"),
        *(
            "/v1/models/none:predict",
            "/v1/models/echo:predictable",
            "/v1/models/:predict",
            "/v1/models/echo:predict?x=1",
        ),
        *("/v1/models", "/v2/models/echo/infer", "/v2/models/echo/explain", "/v2/models/none/infer"),
        *("/v2/models/echo/other", "/v2/models/echo", "/v2/models/echo/ready", "/v2", "/v2/health/live"),
        *("/v2/models/echo/versions/2.0/infer", "/v2/models/echo/infer?x=1", "/v2/models/echo:x/infer"),
        *("/wfpredict/flow", "/api-description", "/api-description/", "/api-description/more", "/livez", "/readyz"),
        *("/metrics", "/token?type=inference", "/favicon.ico"),
    ]
    found = [get(f"get {path}", path) for path in dict.fromkeys(paths)]
    for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
        targets = ("/", "/ping", "/predictions/echo", "/predictions/none", "/api-description", "/nothing")
        found += [get(f"{method.lower()} {target}", target, method) for target in targets]
    found += [
        get("options version", "/predictions/echo/2.0", "OPTIONS"),
        get("options explanations", "/explanations/echo", "OPTIONS"),
        get("options idle", "/predictions/idle", "OPTIONS"),
        get("options v1", "/v1/models/echo:predict", "OPTIONS"),
        post("raw without a type", b"some\xff\x00bytes"),
        post("raw text", b"text \xc3\xa4", headers=_kind("text/plain")),
        post("raw text with a charset", b"text", headers=_kind("text/plain; charset=latin-1")),
        post("raw json", b'{"a": [1, 2]}', headers=_kind("application/json")),
        post("raw json with a charset", b'{"a": 1}', headers=_kind("application/json; charset=utf-8")),
        post("raw json that is none", b"{nope", headers=_kind("application/json")),
        post("raw json in capitals", b'{"a": 1}', headers=_kind("Application/JSON")),
        post("raw empty", b""),
        post("raw empty json", b"", headers=_kind("application/json")),
        post("type that is none", b"x", headers=_kind(";;")),
        post("type that is empty", b"x", headers=_kind("")),
        post("headers twice", b"x", headers=(("X-A", "1"), ("X-A", "2"), ("x-a", "3"), ("X-Latin", "\xe4"))),
        post("headers of ours", b"x", headers=(("explain", "True"), ("url_path", "mine"), ("Explain", "Mine"))),
        post("own id", b"x", headers=(("X-Request-Id", "my-own-id"),)),
        post("described by header", b"x", headers=(("describe", "True"),)),
        post("sequence", b"x", headers=(("ts_request_sequence_id", "s1"),)),
        *(
            post(f"status {code}", b"x", headers=(("x-mode", f"status:{code}"),))
            for code in (201, 204, 304, 404, 500, 600)
        ),
        post("stream", b"x", "/predictions/stream"),
        get("stream of head", "/predictions/stream", "HEAD"),
        post("form", b"a=1&b=%20x+y&c=%C3%A4", headers=_FORM),
        post("form with a charset", b"a=1", headers=_kind("application/x-www-form-urlencoded; charset=utf-8")),
        post("form in capitals", b"a=1", headers=_kind("Application/X-WWW-Form-URLEncoded")),
        post("form without =", b"a", headers=_FORM),
        post("form without =, then one", b"a&b=1", headers=_FORM),
        post("form with an empty value", b"a=", headers=_FORM),
        post("form with an empty name", b"=1", headers=_FORM),
        post("form with nothing", b"", headers=_FORM),
        post("form with &&", b"a=1&&b=2&", headers=_FORM),
        post("form with ;", b"a=1;b=2", headers=_FORM),
        post("form with a name twice", b"a=1&a=2", headers=_FORM),
        post("form with a bad escape", b"a=%ZZ", headers=_FORM),
        post("form with half an escape", b"a=1%", headers=_FORM),
        post("form that is not utf-8", b"a=%FF\xff", headers=_FORM),
        post("form with = in the value", b"a=b=c", headers=_FORM),
        post("form with a line's end", b"a=1\r\n", headers=_FORM),
        post("form and query", b"a=1", "/predictions/echo?q=1", headers=_FORM),
        post("invocations form", b"model_name=echo&a=1", "/invocations", headers=_FORM),
        post("invocations body and query", b"x", "/invocations?model_name=echo&body=1&q=%C3%A4&r=a+b"),
        post("legacy body and query", b"x", "/echo/predict?data=1", headers=_kind("text/plain")),
        post("invoke form and query", b"a=1", "/models/echo/invoke?a=0", headers=_FORM),
        post("multipart", _parts(_FIELD, _FILE), headers=_MULTI),
        post("multipart in capitals", _parts(_FIELD), headers=_kind("Multipart/Form-Data; Boundary=BB")),
        post("multipart with quotes", _parts(_FIELD), headers=_kind('multipart/form-data; boundary="BB"')),
        post("multipart without a boundary", _parts(_FIELD), headers=_kind("multipart/form-data")),
        post("multipart with another boundary", _parts(_FIELD), headers=_kind("multipart/form-data; boundary=other")),
        post(
            "multipart with a charset", _parts(_FIELD), headers=_kind("multipart/form-data; boundary=BB; charset=utf-8")
        ),
        post("multipart with nothing", b"", headers=_MULTI),
        post("multipart with an end alone", _parts(), headers=_MULTI),
        post("multipart without an end", _parts(_FIELD, end=""), headers=_MULTI),
        post("multipart cut", _parts(_FIELD, _FILE)[:60], headers=_MULTI),
        post("multipart cut in a file", _parts(_FILE)[:-12], headers=_MULTI),
        post("multipart with a preamble", b"before\r\n" + _parts(_FIELD), headers=_MULTI),
        post("multipart with an epilogue", _parts(_FIELD) + b"after", headers=_MULTI),
        post("multipart with bare line feeds", _parts(_FIELD).replace(b"\r\n", b"\n"), headers=_MULTI),
        post(
            "multipart field with a type",
            _parts('Content-Disposition: form-data; name="j"\r\nContent-Type: application/json\r\n\r\n{"a": 1}'),
            headers=_MULTI,
        ),
        post(
            "multipart file with a charset",
            _parts(
                'Content-Disposition: form-data; name="f"; filename="f.txt"\r\n'
                "Content-Type: text/plain; charset=utf-8\r\n\r\nx"
            ),
            headers=_MULTI,
        ),
        post(
            "multipart file without a type",
            _parts('Content-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nx'),
            headers=_MULTI,
        ),
        post(
            "multipart file without a name",
            _parts('Content-Disposition: form-data; name="f"; filename=""\r\nContent-Type: text/plain\r\n\r\nx'),
            headers=_MULTI,
        ),
        post(
            "multipart file in base64",
            _parts(
                'Content-Disposition: form-data; name="f"; filename="x"\r\nContent-Type: text/plain\r\n'
                "Content-Transfer-Encoding: base64\r\n\r\naGk="
            ),
            headers=_MULTI,
        ),
        post("multipart part without a name", _parts("Content-Disposition: form-data\r\n\r\n1"), headers=_MULTI),
        post("multipart part without a disposition", _parts("X-A: b\r\n\r\n1"), headers=_MULTI),
        post("multipart part without headers", _parts("\r\n1"), headers=_MULTI),
        post("multipart empty value", _parts('Content-Disposition: form-data; name="a"\r\n\r\n'), headers=_MULTI),
        post("multipart empty name", _parts('Content-Disposition: form-data; name=""\r\n\r\n1'), headers=_MULTI),
        post(
            "multipart name without quotes", _parts("Content-Disposition: form-data; name=a\r\n\r\n1"), headers=_MULTI
        ),
        post(
            "multipart name in utf-8",
            _parts('Content-Disposition: form-data; name="\xc3\xa4"\r\n\r\n\xc3\xa4'),
            headers=_MULTI,
        ),
        post("multipart with a name twice", _parts(_FIELD, _FIELD.replace("\r\n1", "\r\n2")), headers=_MULTI),
        post(
            "gzip",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x00\x00\x83\x16\xdc\x8c\x01\x00\x00\x00",
            headers=(("Content-Encoding", "gzip"),),
        ),
        post("largest", b"x" * _LIMIT, "/predictions/none"),
        post("too large", b"x" * (_LIMIT + 1), "/predictions/none"),
        post(
            "too large, told before",
            None,
            "/predictions/none",
            headers=(("Expect", "100-continue"), ("Content-Length", str(_LIMIT + 1))),
        ),
    ]
    chunked = (
        b"POST /predictions/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    plain = b"POST /predictions/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    found += [
        Question(name, "inference", raw=raw)
        for name, raw in {
            "chunked": chunked + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n",
            "chunked too large": chunked + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 4 + b"0\r\n\r\n",
            "chunked with a bad length": chunked + b"zz\r\nabc\r\n0\r\n\r\n",
            "chunks and a length": plain + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "two lengths": plain + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "a length that is none": plain + b"Content-Length: x\r\n\r\n",
            "a negative length": plain + b"Content-Length: -1\r\n\r\n",
            "expect": plain + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
            "expect something else": plain + b"Expect: wonders\r\nContent-Length: 2\r\n\r\nab",
            "http 1.0": b"GET /ping HTTP/1.0\r\n\r\n",
            "http 1.0 kept": b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "http 2.0": b"GET /ping HTTP/2.0\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "no host": b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n",
            "no protocol": b"GET /ping\r\n\r\n",
            "garbage": b"\x00\x01\x02 garbage\r\n\r\n",
            "unknown method": b"WONDER /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "long target": b"GET /ping?" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "long header": b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: "
            + b"x" * 9000
            + b"\r\n\r\n",
            "header without :": b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX\r\n\r\n",
            "whole address": b"GET http://localhost/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        }.items()
    ]
    return found


def _management() -> list[Question]:
    def ask(name: str, method: str, target: str, **more: object) -> Question:
        return Question(name, "management", method, target, **more)  # type: ignore[arg-type]

    def json(name: str, body: bytes, **more: object) -> Question:
        return ask(name, "POST", "/models", body=body, headers=_kind("application/json"), **more)

    reads = [
        *("/", "/nothing", "/ping", "/models", "/models/", "/models?limit=1", "/models?limit=2", "/models?limit=3"),
        *(
            "/models?limit=1&next_page_token=1",
            "/models?limit=1&next_page_token=2",
            "/models?limit=1&next_page_token=3",
        ),
        *("/models?limit=0", "/models?limit=-1", "/models?limit=101", "/models?limit=x", "/models?next_page_token=x"),
        *("/models?next_page_token=-1", "/models?next_page_token=99", "/models?limit=", "/models?limit=99999999999"),
        *(
            "/models/echo",
            "/models/echo/",
            "/models/echo/1.0",
            "/models/echo/2.0",
            "/models/echo/all",
            "/models/echo/9",
        ),
        *("/models/none", "/models/none/1.0", "/models/none/all", "/models/idle", "/models/stream/1.0/more"),
        *("/models/echo?customized=true", "/models/echo/2.0?customized=true", "/models/echo/all?customized=true"),
        *("/models/echo?customized=x", "/models/idle?customized=true", "/models/none?customized=true"),
        *("/models/echo/9?customized=true", "/models/echo/1.0/set-default", "/v1/models/echo", "/v1/models/none"),
        *("/v1/models/idle", "/v1/models/echo:x", "/v1/models", "/api-description", "/workflows", "/token"),
        *("/token?type=inference", "/predictions/echo", "/models/echo/1.0/2/3", "/models/ec%68o", "/metrics"),
    ]
    found = [ask(f"get {path}", "GET", path) for path in dict.fromkeys(reads)]
    for method in ("PATCH", "HEAD", "OPTIONS"):
        targets = ("/", "/models", "/models/echo", "/models/echo/2.0", "/models/none", "/v1/models/echo", "/nothing")
        found += [ask(f"{method.lower()} {target}", method, target) for target in targets]
    found += [
        ask("post model", "POST", "/models/echo"),
        ask("put models", "PUT", "/models"),
        ask("delete models", "DELETE", "/models"),
        ask("post v1", "POST", "/v1/models/echo"),
        ask("register without url", "POST", "/models"),
        ask("register an empty url", "POST", "/models?url="),
        ask("register what is not there", "POST", "/models?url=nowhere.mar"),
        ask("register outside", "POST", "/models?url=../x.mar"),
        ask("register with a runtime that is none", "POST", "/models?url=echo1.0.mar&runtime=cobol"),
        ask("register twice", "POST", "/models?url=echo1.0.mar"),
        ask("register json without url", "POST", "/models", body=b"{}", headers=_kind("application/json")),
        json("register json with null", b'{"url": null}'),
        json("register json that is none", b"{nope"),
        json("register json that is empty", b""),
        json("register json null", b"null"),
        json("register json list", b"[]"),
        json("register json text", b'"echo1.0.mar"'),
        json("register json with a wrong number", b'{"url": "stream.mar", "model_name": "n", "batch_size": "x"}'),
        json("register json with a list", b'{"url": ["stream.mar"]}'),
        json("register json that is not utf-8", b'{"url": "\xff"}'),
        ask("register with a bad number", "POST", "/models?url=stream.mar&model_name=bad1&batch_size=x"),
        ask("unregister bad1", "DELETE", "/models/bad1"),
        ask("register with a bad flag", "POST", "/models?url=stream.mar&model_name=bad2&synchronous=maybe"),
        ask("unregister bad2", "DELETE", "/models/bad2"),
        ask("register with a negative number", "POST", "/models?url=stream.mar&model_name=bad3&initial_workers=-1"),
        ask("unregister bad3", "DELETE", "/models/bad3"),
        ask("register by form", "POST", "/models", body=b"url=stream.mar&model_name=f", headers=_FORM),
        json("register json with what is unknown", b'{"url": "stream.mar", "model_name": "j", "wonder": 1}'),
        ask("unregister j", "DELETE", "/models/j"),
        json(
            "register json with workers",
            b'{"url": "stream.mar", "model_name": "k", "initial_workers": 1, "synchronous": false}',
        ),
        ask("unregister k", "DELETE", "/models/k"),
        ask("register with a worker", "POST", "/models?url=stream.mar&model_name=l&initial_workers=1&synchronous=true"),
        ask("scale to nothing", "PUT", "/models/l?min_worker=0&synchronous=true"),
        ask("scale asynchronously", "PUT", "/models/l?min_worker=1"),
        ask("scale", "PUT", "/models/l?min_worker=1&max_worker=2&synchronous=true"),
        ask("scale a version", "PUT", "/models/l/1.0?min_worker=1&max_worker=1&synchronous=true"),
        ask("scale a version by parameter", "PUT", "/models/l?model_version=1.0&min_worker=1&synchronous=true"),
        ask("scale upside down", "PUT", "/models/l?min_worker=3&max_worker=2"),
        ask("scale what is not there", "PUT", "/models/none?min_worker=1"),
        ask("scale a version that is not there", "PUT", "/models/l/9?min_worker=1"),
        ask("scale with a bad number", "PUT", "/models/l?min_worker=x"),
        ask("scale with a negative number", "PUT", "/models/l?min_worker=-1"),
        ask("scale more", "PUT", "/models/l/1.0/more?min_worker=1"),
        ask("unregister l", "DELETE", "/models/l"),
        ask("set default", "PUT", "/models/echo/2.0/set-default"),
        ask("set default back", "PUT", "/models/echo/1.0/set-default"),
        ask("set default of a version that is not there", "PUT", "/models/echo/9/set-default"),
        ask("set default of what is not there", "PUT", "/models/none/1.0/set-default"),
        ask("unregister the default version", "DELETE", "/models/echo"),
        ask("unregister the default version by name", "DELETE", "/models/echo/1.0"),
        ask("unregister what is not there", "DELETE", "/models/none"),
        ask("unregister a version that is not there", "DELETE", "/models/echo/9"),
        ask("unregister more", "DELETE", "/models/echo/1.0/more"),
        ask("too large", "POST", "/models", body=b"x" * (_LIMIT + 1)),
    ]
    return found


def _closed() -> list[Question]:
    asked = [
        ("closed-management", "POST", "/models?url=echo1.0.mar"),
        ("closed-management", "POST", "/models"),
        ("closed-management", "DELETE", "/models/echo"),
        ("closed-management", "DELETE", "/models/none"),
        ("closed-management", "GET", "/models"),
        ("closed-management", "PUT", "/models/none?min_worker=1"),
        *(
            ("closed-inference", "GET", path)
            for path in (
                *("/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/health", "/v2/health/other", "/v2/models"),
                *("/v2/models/echo", "/v2/models/echo/ready", "/v2/models/echo/versions/1.0"),
                *("/v2/models/echo/versions/1.0/infer", "/v2/models/echo/versions/1.0/ready", "/v2/models/none/infer"),
                *("/v2/models/echo/infer", "/invocations", "/invocations?model_name="),
            )
        ),
        ("closed-inference", "POST", "/v2"),
        ("closed-inference", "POST", "/v2/models/echo/versions/1.0/infer"),
    ]
    return [Question(f"{api} {method.lower()} {target}", api, method, target) for api, method, target in asked]


def _keys() -> list[Question]:
    found = []
    asked = [
        *(("keys-inference", "GET", path) for path in ("/ping", "/predictions/none", "/nothing", "/api-description")),
        ("keys-inference", "OPTIONS", "/"),
        ("keys-inference", "OPTIONS", "/predictions/none"),
        *(("keys-management", "GET", path) for path in ("/models", "/nothing", "/api-description", "/token")),
        *(("keys-management", "GET", f"/token?type={kind}") for kind in ("inference", "management", "API", "")),
        ("keys-management", "GET", "/models?x=/token"),
        ("keys-management", "POST", "/token?type=inference"),
        ("keys-management", "GET", "/token/more?type=inference"),
    ]
    for api, method, target in asked:
        for key in ("none", "wrong", "inference", "management", "API"):
            headers = () if key == "none" else (("Authorization", f"Bearer <{key}>"),)
            found.append(Question(f"{api} {method.lower()} {target} {key}", api, method, target, headers))
    for name, value in {
        "no bearer": "<inference>",
        "basic": "Basic <inference>",
        "small letters": "bearer <inference>",
        "blanks": "Bearer   <inference>",
        "two words": "Bearer <inference> more",
        "empty": "Bearer ",
    }.items():
        found.append(Question(f"keys {name}", "keys-inference", "GET", "/ping", (("Authorization", value),)))
    return found


QUESTIONS = [*_inference(), *_management(), *_closed(), *_keys()]
