import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handlers import NotSupportedError, TextHandler
from handlers.errors import LoadError
from tests.later import Later

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ts.torch_handler.contractions import CONTRACTION_MAP

torchserves = Later("ts.torch_handler.text_handler")  # imports captum


class Ours(TextHandler):
    pass


STEPS = (
    "_remove_html_tags",
    "_expand_contractions",
    "_remove_accented_characters",
    "_remove_punctuation",
    "_remove_puncutation",
    "_tokenize",
)
PARTS = [
    "<b>",
    "<br />",
    '<br "/>',
    "&nbsp;",
    "é",
    "ﬁ",
    "’",
    "\n",
    "\u00a0",
    "I'd",
    "DON'T",
    "a.b",
    "(x)",
    ";",
    ":",
    "!?",
]


@pytest.mark.parametrize("step", STEPS)
@given(st.lists(st.sampled_from([*PARTS, *CONTRACTION_MAP]) | st.text(st.characters(max_codepoint=0x12F))))
def test_each_step_is_torchserves(step, parts):
    text = "".join(parts)
    assert getattr(Ours(), step)(text) == getattr(torchserves.TextHandler(), step)(text)


def test_the_mark_of_a_blank_is_no_part_of_a_word():
    tokens = ["Rain", "Ġstops", "ĠtheĠend"]
    for handler in (Ours(), torchserves.TextHandler()):
        assert handler.get_word_token(tokens) == ["Rain", "stops", "theend"]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 4, 3)])
def test_attributions_are_summarized_as_torchserve_does(shape, caplog):
    attributions = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = Ours().summarize_attributions(attributions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = torchserves.TextHandler().summarize_attributions(attributions)
        except TypeError:  # its own line of the log, which pytest turns into an exception
            shares = nn.functional.softmax(attributions)
            expected = shares / torch.norm(shares.sum(dim=-1))
    assert torch.equal(found, expected)


def test_captums_gradients_are_those_of_the_embedding(monkeypatch):
    handler = Ours()
    handler.model = nn.Sequential()
    handler.model.embedding = nn.EmbeddingBag(3, 2)
    assert handler.lig.layer is handler.model.embedding
    assert handler.lig is handler.lig
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(NotSupportedError, match="captum"):
        _ = Ours().lig


def test_another_path_of_the_vocabulary(archives, make_context):
    folder = archives.make(model_file="from torch import nn\nclass Net(nn.Identity): pass\n")
    torch.save({"rain": 3}, folder / "words.pt")

    class Elsewhere(TextHandler):
        def get_source_vocab_path(self, ctx):
            return ctx.system_properties["model_dir"] + "/words.pt"

    handler = Elsewhere()
    handler.initialize(make_context(folder))
    assert handler.source_vocab["rain"] == 3
    with pytest.raises(LoadError, match="neither a tokenizer"):
        Ours().initialize(make_context(folder))
