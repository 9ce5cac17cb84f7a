"""Vectors of texts: as `pipeline` and sentence-transformers give them."""

import json

import pytest
import torch
from torch import nn

from handlers.errors import LoadError
from handlers.pretrained.embedding import POOLINGS, read_recipe

from .conftest import near
from .models import make_bert, make_tokenizer, save

TEXTS = ["ada lives in rome .", "rain", "the rain stopped the final . " * 4]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vectors"), make_bert("Model"), make_tokenizer())


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))


def modules(*kinds):
    places = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    return [
        {"idx": index, "name": str(index), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]


@pytest.fixture
def sentences(tmp_path):
    """Save a folder as sentence-transformers does."""
    folder = save(tmp_path / "sentences", make_bert("Model"), make_tokenizer())
    write(
        folder,
        modules=modules("Transformer", "Pooling", "Normalize"),
        sentence_bert_config={"max_seq_length": 12, "do_lower_case": False},
        **{"1_Pooling__config": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}},
    )
    return folder


def vectors(served, *texts, longest=64):
    """Return the token vectors of texts, each alone."""
    handler = served.handler
    with torch.no_grad():
        return [
            handler.model(**handler.tokenizer(text, return_tensors="pt", truncation=True, max_length=longest))[0][0]
            for text in texts
        ]


def test_token_vectors_are_those_of_the_pipeline(serve, saved, pipe):
    expected = pipe("feature-extraction", saved)(TEXTS)
    found = serve(saved, {"handler": {"pooling": "none"}}).one({"inputs": TEXTS})
    assert [[one] for one in found] == near(expected)


def test_by_default_their_mean(serve, saved):
    served = serve(saved)
    expected = [one.mean(dim=0).tolist() for one in vectors(served, *TEXTS)]
    assert served.ask(*TEXTS).replies == near(expected)
    assert served.one({"inputs": TEXTS}) == near(expected)
    found = served.one({"inputs": TEXTS[0], "parameters": {"normalize": True}})
    assert sum(one * one for one in found) == pytest.approx(1, abs=1e-5)
    told = served.one({"inputs": TEXTS[1], "parameters": {"details": True}})
    assert told == {"embedding": near(expected[1]), "tokens": 3}  # [CLS] and [SEP] among them


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_ignores_padding(serve, saved, name):
    served = serve(saved, {"handler": {"pooling": name}})
    alone = [served.one(text) for text in TEXTS[:2]]
    assert served.ask(TEXTS[0], "rain in rome").replies[0] == near(alone[0])
    expected = {"cls": lambda one: one[0], "lasttoken": lambda one: one[-1], "max": lambda one: one.amax(dim=0)}
    if name in expected:
        assert alone == near([expected[name](one).tolist() for one in vectors(served, *TEXTS[:2])])


def test_a_folder_of_sentence_transformers(serve, sentences):
    served = serve(sentences)
    assert served.handler.longest == 12
    expected = [one.mean(dim=0) for one in vectors(served, *TEXTS, longest=12)]
    assert served.ask(*TEXTS).replies == near([(one / one.norm()).tolist() for one in expected])


def test_layers_and_prompts(serve, sentences):
    torch.manual_seed(1)
    layer = nn.Linear(16, 3)
    write(
        sentences,
        modules=modules("Transformer", "Pooling", "Dense"),
        config_sentence_transformers={"prompts": {"query": "where is ", "passage": ""}, "default_prompt_name": None},
        **{
            "2_Dense__config": {
                "in_features": 16,
                "out_features": 3,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
            "1_Pooling__config": {"pooling_mode_cls_token": True},
        },
    )
    torch.save(
        {f"linear.{name}": one for name, one in layer.state_dict().items()}, sentences / "2_Dense" / "pytorch_model.bin"
    )
    served = serve(sentences)
    with torch.no_grad():
        expected = [layer(one[0]).tanh().tolist() for one in vectors(served, "ada", "where is ada")]
    assert served.one("ada") == near(expected[0])
    assert served.one({"inputs": "ada", "parameters": {"prompt_name": "query"}}) == near(expected[1])
    answered = served.ask({"inputs": "ada", "parameters": {"prompt_name": "other"}})
    assert answered.statuses == [400]
    assert "it has query, passage" in answered.replies[0]["message"]


@pytest.mark.parametrize("size", [16, 3])
def test_a_length_that_is_not_the_last_and_what_came_in_is_added(sentences, size):
    torch.manual_seed(1)
    layer, rest = nn.Linear(16, size), nn.Identity() if size == 16 else nn.Linear(16, size, bias=False)
    dense = {"in_features": 16, "out_features": size, "activation_function": "torch.nn.Tanh", "use_residual": True}
    write(sentences, modules=modules("Transformer", "Pooling", "Normalize", "Dense"), **{"3_Dense__config": dense})
    state = {f"linear.{name}": one for name, one in layer.state_dict().items()}
    state |= {f"residual.{name}": one for name, one in rest.state_dict().items()}
    torch.save(state, sentences / "3_Dense" / "pytorch_model.bin")
    _, recipe = read_recipe(sentences)
    assert not recipe.normalize
    vector = torch.randn(1, 16)
    unit = vector / vector.norm()
    torch.testing.assert_close(recipe.layers(vector), layer(unit).tanh() + rest(unit))


def test_settings_named_after_the_model(sentences):
    (sentences / "sentence_bert_config.json").rename(sentences / "sentence_roberta_config.json")
    assert read_recipe(sentences)[1].longest == 12


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"2_Normalize__config": {"module_input_name": "token_embeddings"}}, "reads 'token_embeddings'"),
        ({"1_Pooling__config": {}}, "the pooling in"),
        ({"1_Pooling__config": {"pooling_mode": "wishful"}}, "wishful"),
        ({"1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False}}, "leaves prompts out"),
        ({"modules": modules("Transformer", "Magic")}, "names the module Magic"),
        ({"modules": [{"type": "x.Pooling", "path": "../up"}]}, "which is not in the archive"),
        ({"modules": modules("Transformer", "Pooling", "Dense")}, "the layer in"),
        (
            {
                "modules": modules("Transformer", "Pooling", "Dense"),
                "2_Dense__config": {"activation_function": "os.system"},
            },
            "torch.nn does not have",
        ),
    ],
)
def test_what_is_not_known(sentences, files, said):
    write(sentences, **files)
    with pytest.raises(LoadError, match=said):
        read_recipe(sentences)


def test_poolings_by_name(sentences):
    write(sentences, **{"1_Pooling__config": {"pooling_mode": ["cls", "max"]}})
    model, recipe = read_recipe(sentences)
    assert model == sentences
    assert recipe.poolings == ("cls", "max")
    assert recipe.normalize


def test_settings(serve, saved):
    with pytest.raises(LoadError, match=r"handler\.pooling"):
        serve(saved, {"handler": {"pooling": "median"}})
