"""Adapters: merged into the weights, or refused with a reason."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import BuildError

from .conftest import safetensors, write

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}


def build(folder, adapter, **options):
    return archive_tool.build(model_name="m", pretrained=folder, adapter=adapter, force=True, **options)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"other.json": {}}, "adapter_config.json is missing"),
        ({"adapter_config.json": {"peft_type": "PROMPT_TUNING"}}, "of the kind PROMPT_TUNING, and only LORA is merged"),
        ({"adapter_config.json": ADAPTER}, "the adapter's weights are missing"),
        ({"adapter_config.json": ADAPTER, "adapter_model.safetensors": b"x"}, "holds no known weights"),
    ],
)
def test_what_is_no_adapter(saved, work, files, said):
    with pytest.raises(BuildError, match=said):
        build(saved(), write(work / "lora", files))
    assert sorted(path.name for path in work.iterdir() if "merge" in path.name) == []


def test_an_adapter_needs_its_model(saved, work):
    with pytest.raises(BuildError, match="--adapter is about a pretrained model"):
        archive_tool.build(model_name="m", handler="h.py", adapter="lora")
    folder = saved()
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    lora = write(work / "lora", {"adapter_config.json": ADAPTER, "adapter_model.safetensors": safetensors()})
    with pytest.raises(BuildError, match="2 problems with the inputs") as caught:
        build(folder, lora)
    assert "the weights are missing" in str(caught.value)
    assert "the tokenizer is missing" in str(caught.value)


def test_peft_is_asked_for(saved, work, monkeypatch):
    from archive_tool.pretrained import merging

    monkeypatch.setattr(merging, "find_spec", lambda name: None if name == "peft" else object())
    lora = write(work / "lora", {"adapter_config.json": ADAPTER, "adapter_model.safetensors": safetensors()})
    with pytest.raises(BuildError, match="needs the package peft") as caught:
        build(saved(), lora)
    assert "torchmar[adapters]" in caught.value.hint


def test_merged_weights_are_the_models_and_the_adapters(work):
    torch = pytest.importorskip("torch")
    if not find_spec("peft"):
        pytest.skip("peft is not installed")
    from safetensors.torch import load_file, save_file

    from tests.handlers.pretrained.models import make_bert, make_tokenizer, save

    base = save(work / "base", make_bert("ForSequenceClassification", num_labels=3), make_tokenizer())
    before = load_file(base / "model.safetensors")
    drawn = torch.Generator().manual_seed(1)
    adapter, expected = {}, dict(before)
    for name, one in before.items():
        if "attention.self.query.weight" in name:
            ups, downs = torch.randn(one.shape[0], 2, generator=drawn), torch.randn(2, one.shape[1], generator=drawn)
            place = f"base_model.model.{name.removesuffix('.weight')}"
            adapter |= {f"{place}.lora_A.weight": downs, f"{place}.lora_B.weight": ups}
            expected[name] = one + 8 / 2 * (ups @ downs)
        elif name.startswith("classifier."):  # an adapter brings its own
            adapter[f"base_model.model.{name}"] = expected[name] = one + 1
    assert adapter
    (work / "lora").mkdir()
    save_file(adapter, work / "lora" / "adapter_model.safetensors")
    settings = ADAPTER | {"task_type": "SEQ_CLS", "r": 2, "lora_alpha": 8, "target_modules": ["query"]}
    write(work / "lora", {"adapter_config.json": settings})
    built = build(base, work / "lora", archive_format="no-archive", vendor_sdk=False)
    assert not list(work.glob(".torchmar-merge-*"))
    merged = load_file(built.path / "pretrained" / "model.safetensors")
    assert merged.keys() == expected.keys()
    for name, one in merged.items():
        torch.testing.assert_close(one, expected[name])


@pytest.mark.slow  # peft here, and in two more processes
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for what that deprecates
def test_merged_weights_answer_as_the_adapted_model(work):
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.handlers.pretrained.models import make_bert, make_tokenizer, save

    base = save(work / "base", make_bert("ForSequenceClassification", num_labels=3), make_tokenizer())
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=8, target_modules=["query", "value"])
    adapted = peft.get_peft_model(make_bert("ForSequenceClassification", num_labels=3), settings).eval()
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                one.normal_(generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(work / "lora")
    built = build(base, work / "lora", archive_format="no-archive", vendor_sdk=False)
    assert not list(work.glob(".torchmar-merge-*"))
    merged = load_file(built.path / "pretrained" / "model.safetensors")
    expected = adapted.merge_and_unload().state_dict()
    assert merged.keys() <= expected.keys()
    for name, one in merged.items():
        torch.testing.assert_close(one, expected[name])
    assert not torch.equal(merged["classifier.weight"], load_file(base / "model.safetensors")["classifier.weight"])
    # All but the weights is the base's, as it was.
    for name in ("config.json", "tokenizer.json"):
        assert (built.path / "pretrained" / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((built.path / "MAR-INF" / "MANIFEST.json").read_text())["torchmar"]["pretrained"]["task"]

    write(Path("other"), {})
    other = save(work / "other", make_bert("ForMaskedLM"), make_tokenizer())
    changed = json.loads((work / "lora" / "adapter_config.json").read_text()) | {"target_modules": ["absent"]}
    (work / "lora" / "adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(BuildError, match="the adapter cannot be merged"):
        build(other, work / "lora")
