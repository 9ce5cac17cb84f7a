"""The recorded inputs and outputs of a model."""

from archive_tool.metadata.record import TensorSpec
from archive_tool.pretrained.signature import find

from .conftest import write


def test_texts(tmp_path):
    config = {"id2label": {"0": "a", "1": "b", "2": "c"}}
    inputs, outputs = find(tmp_path, config, "text-classification")
    assert inputs == (
        TensorSpec("input_ids", "int64", (None, None)),
        TensorSpec("attention_mask", "int64", (None, None)),
    )
    assert outputs == (TensorSpec("logits", "float32", (None, 3)),)
    write(tmp_path, {"tokenizer_config.json": {"model_input_names": ["attention_mask", "token_type_ids", "input_ids"]}})
    assert [one.name for one in find(tmp_path, {}, "fill-mask")[0]] == ["input_ids", "token_type_ids", "attention_mask"]
    assert find(tmp_path, {"vocab_size": 7}, "fill-mask")[1] == (TensorSpec("logits", "float32", (None, None, 7)),)
    assert find(tmp_path, {}, "text-classification")[1] == (TensorSpec("logits", "float32", (None, None)),)


def test_images_and_sound(tmp_path):
    (pixels,), outputs = find(tmp_path, {"num_channels": 1}, "object-detection")
    assert pixels == TensorSpec("pixel_values", "float32", (None, 1, None, None))
    assert outputs[1] == TensorSpec("pred_boxes", "float32", (None, None, 4))
    assert find(tmp_path, {}, "automatic-speech-recognition") == ((), ())
