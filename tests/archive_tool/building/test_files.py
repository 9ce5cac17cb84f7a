"""The member that each file becomes."""

import os
from pathlib import Path

import pytest

from archive_tool.analysis import python_source
from archive_tool.building.files import plan
from archive_tool.building.inputs import Inputs, split_extra_files
from archive_tool.building.report import Report
from handlers.builtin import SDK_HANDLERS


def planned(report=None, **options):
    report = report or Report()
    options.setdefault("handler", "h.py")
    result = plan(Inputs(model_name="m", **options), 0, report)
    assert not report.errors, report.errors
    return {member.name: member.source for member in result.members}


def errors(**options):
    report = Report()
    plan(Inputs(model_name="m", **{"handler": "h.py", **options}), 0, report)
    return [problem.message for problem in report.errors]


def extra(text, report=None):
    found = planned(report, extra_files=split_extra_files(text))
    found.pop("h.py", None)
    return sorted(found)


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def test_everything_lands_at_the_root(work):
    touch("a/net.py", "b/w.pt", "c/r.txt", "d/c.yaml", "e/k.json")
    found = planned(
        model_file=Path("a/net.py"),
        serialized_file=Path("b/w.pt"),
        requirements_file=Path("c/r.txt"),
        config_file=Path("d/c.yaml"),
        extra_files=("e/k.json",),
    )
    assert list(found) == ["c.yaml", "h.py", "k.json", "net.py", "r.txt", "w.pt"]
    assert found["net.py"] == Path("a/net.py")


def test_the_manifest_has_base_names(work):
    touch("a/net.py")
    result = plan(Inputs("m", "./h.py:f", "2", model_file=Path("a/net.py")), 0, Report())
    assert "MAR-INF/MANIFEST.json" not in [member.name for member in result.members]  # it is written after them
    assert result.manifest.model.handler == "h.py:f"
    assert result.manifest.model.model_file == "net.py"


def test_a_directory_is_merged_into_the_root(work):
    touch("d/a", "d/sub/b", "d/sub/deeper/c", "d/.hidden", "d/.git/x", "d/__pycache__/x", "d/sub/__MACOSX/x")
    Path("d/empty").mkdir()
    assert extra("d") == [".hidden", "a", "sub/b", "sub/deeper/c"]
    assert extra("d/.git") == ["x"]


def test_wildcards_do_not_go_down(work):
    touch("d/a.txt", "d/b.txt", "d/c.md", "d/sub/e.txt")
    assert extra("d/*.txt") == ["a.txt", "b.txt"]
    assert extra("d/*") == ["a.txt", "b.txt", "c.md", "e.txt"]
    assert extra("d/[ab].t?t") == ["a.txt", "b.txt"]


def test_a_literal_name_wins_over_a_wildcard(work):
    touch("x[1].txt", "x1.txt")
    assert extra("x[1].txt") == ["x[1].txt"]


def test_an_unmatched_wildcard_is_a_warning(work):
    report = Report()
    assert extra("*.none", report) == []
    assert "no file matches '*.none'" in str(report.warnings[0])


def test_blanks_after_commas(work):
    touch("a", "b")
    assert extra(" a , b") == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"serialized_file": Path("weight.pt")}, "the file weight.pt does not exist"),
        ({"serialized_file": Path("store")}, "store is a directory, a file is needed"),
        ({"extra_files": ("gone",)}, "the file gone does not exist"),
        ({"extra_files": ("broken",)}, "the link broken leads nowhere"),
        ({"extra_files": ("fifo",)}, "fifo is not a regular file"),
        ({"extra_files": ("d",)}, "the link d/broken leads nowhere"),
        ({"handler": "gone:f"}, "the file gone.py does not exist"),
        ({"config_file": Path("no\0name")}, "cannot look at no\0name: embedded null byte"),
    ],
)
def test_what_is_no_file_is_named(work, options, message):
    Path("d").mkdir()
    for link in ("broken", "d/broken"):
        Path(link).symlink_to("nowhere")
    os.mkfifo("fifo")
    if "null" in message:
        assert "null" in errors(**options)[0]
    else:
        assert errors(**options) == [message]


def test_a_near_name_is_proposed(work):
    report = Report()
    plan(Inputs("m", "h.py", serialized_file=Path("wieghts.pt")), 0, report)
    assert report.errors[0].hint == "did you mean weights.pt?"


@pytest.mark.parametrize(
    ("handler", "hint"),
    [
        ("tensor", "did you mean tensor_handler?"),
        (
            "Classifier",
            "did you mean dali_image_classifier or image_classifier or text_classifier or token_classifier?",
        ),
        ("image_clasifier", "did you mean image_classifier"),
        ("handler_ours", "did you mean handler_ours2.py?"),  # a file here comes first
        ("zzz", "name a file, or one of audio_handler, "),
        ("zzz.py", None),
    ],
)
def test_a_handler_that_is_near_is_proposed(work, handler, hint):
    touch("handler_ours2.py")
    report = Report()
    plan(Inputs("m", handler), 0, report)
    found = report.errors[0].hint
    assert found == hint if hint is None else found is not None and found.startswith(hint)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(work):
    Path("weights.pt").chmod(0)
    assert errors(serialized_file=Path("weights.pt")) == ["the file weights.pt cannot be read: permission denied"]


def test_linked_directories_are_followed(work):
    touch("real/a", "d/b")
    Path("d/link").symlink_to("../real")
    Path("d/again").symlink_to("../real")
    assert extra("d") == ["again/a", "b", "link/a"]


def test_a_loop_of_links_is_an_error(work):
    touch("d/a/b")
    Path("d/a/up").symlink_to("..")
    (message,) = errors(extra_files=("d",))
    assert "leads back to" in message


def test_one_name_from_two_files(work):
    touch("x/k.json", "y/k.json")
    (message,) = errors(extra_files=("x/k.json", "y/k.json"))
    assert message == "two different files would become the member 'k.json': x/k.json and y/k.json"
    Path("y/k.json").write_text("x/k.json")
    assert extra("x/k.json,y/k.json") == ["k.json"]
    assert extra("x,x/k.json,./x/../x") == ["k.json"]


def test_the_manifests_place_is_taken(work):
    touch("d/MAR-INF/MANIFEST.json", "e/mar-inf/manifest.json", "f/MAR-INF/other")
    assert "own manifest" in errors(extra_files=("d",))[0]
    assert "own manifest" in errors(extra_files=("e",))[0]
    assert extra("f") == ["MAR-INF/other"]


def test_names_that_other_systems_do_not_have(work):
    touch("d/a\\b", "d/nul.txt", "x/A", "x/a")
    assert [message.split("'")[-1] for message in errors(extra_files=("d",))] == [
        " holds a backslash",
        " is the name of a device on Windows",
    ]
    assert "case does not count" in errors(extra_files=("x",))[0]


def kept(text, folders_from=Path()):
    found = planned(extra_files=split_extra_files(text), folders_from=folders_from)
    return sorted(set(found) - {"h.py"})


def test_folders_are_kept_on_request(work):
    touch("d/a", "d/sub/b", "d/__pycache__/x", "top")
    assert kept("d, top") == ["d/a", "d/sub/b", "top"]
    assert kept("d/sub/b, d/a") == ["d/a", "d/sub/b"]
    assert kept("./d/sub/../a") == ["d/a"]
    assert kept("d/[as]*") == ["d/a", "d/sub/b"]
    assert kept(str(work / "d")) == ["d/a", "d/sub/b"]
    assert kept("d", Path("d")) == ["a", "sub/b"]
    assert kept("d/sub", work / "d") == ["sub/b"]


def test_two_files_of_one_name_stand_side_by_side_in_their_folders(work):
    touch("one/labels.txt", "two/labels.txt")
    assert kept("one, two") == ["one/labels.txt", "two/labels.txt"]
    assert "two different files would become the member 'labels.txt'" in errors(extra_files=("one", "two"))[0]


def test_what_is_elsewhere_has_no_folders_to_keep(work):
    touch("inside/x", "outside/y")
    assert errors(extra_files=("outside/y",), folders_from=Path("inside")) == [
        "outside/y is not below inside, so it has no folders to keep"
    ]


def test_a_place_can_be_named(work):
    touch("a.txt", "b.txt", "d/c.txt", "d/sub/e.txt")
    assert extra("a.txt=x/y.txt") == ["x/y.txt"]
    assert extra("a.txt=x/") == ["x/a.txt"]
    assert extra("a.txt=./x//y.txt") == ["x/y.txt"]
    assert extra("d=words") == ["words/c.txt", "words/sub/e.txt"]
    assert extra("d=words/") == ["words/c.txt", "words/sub/e.txt"]
    assert extra("d=.") == ["c.txt", "sub/e.txt"]
    assert extra("d/c.txt=.") == ["c.txt"]
    assert extra("*.txt=texts") == ["texts/a.txt", "texts/b.txt"]
    assert extra("d/*=all") == ["all/c.txt", "all/sub/e.txt"]
    assert kept("a.txt=x.txt, d/c.txt") == ["d/c.txt", "x.txt"]


def test_a_name_with_an_equals_sign_is_a_name_first(work):
    touch("a=b", "c=d.txt", "c")
    assert extra("a=b") == ["a=b"]
    assert extra("c=d.txt=e.txt") == ["d.txt=e.txt"]
    assert extra("a=b=z") == ["z"]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("a.txt=", "names no place"),
        ("no.txt=x", "no.txt does not exist"),
        ("a.txt=../x", "leads out of the archive"),
        ("a.txt=MAR-INF/MANIFEST.json", "manifest"),
        ("a.txt=h.py", "two different files would become the member 'h.py'"),
        ("a.txt=H.PY", "case does not count"),
        ("a.txt=h.py/x", "needs a folder where 'h.py' is a file"),
    ],
)
def test_places_that_cannot_be(work, item, reason):
    touch("a.txt")
    assert any(reason in message for message in errors(extra_files=(item,)))


def test_a_handler_of_the_sdk_gets_a_file_of_its_own(work):
    found = planned(handler="tensor_handler")
    assert list(found) == ["tensor_handler.py"]
    names = python_source.names(python_source.parse_bytes(found["tensor_handler.py"], "tensor_handler.py"))
    assert [node.name for node in names.classes] == ["Handler"]
    touch("d/tensor_handler.py")
    (message,) = errors(handler="tensor_handler", extra_files=("d",))
    assert "'tensor_handler.py': the one that torchmar writes and d/tensor_handler.py" in message
    Path("d/tensor_handler.py").write_bytes(found["tensor_handler.py"])
    planned(handler="tensor_handler", extra_files=("d",))
    touch("tensor_handler.py")
    assert planned(handler="tensor_handler") == {"tensor_handler.py": Path("tensor_handler.py")}


@pytest.mark.parametrize(("name", "kind"), SDK_HANDLERS.items())
def test_every_handler_of_the_sdk_is_one_of_its_classes(work, name, kind):
    import handlers

    assert f"class Handler({kind}):" in planned(handler=name)[f"{name}.py"].decode()
    assert issubclass(getattr(handlers, kind), handlers.BaseHandler)
