import json
import logging

import pytest
from ts.utils import util as stock

from handlers import LabelMapError
from handlers.loading.labels import load_label_mapping, map_class_to_label


def write(folder, content):
    path = folder / "index_to_name.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"0": "cat", "1": "dog"},
        {"0": ["n01", "cat"], "1": ["n02", "dog"]},
        {"object_type_names": ["cat", "dog"]},
        {},
    ],
)
def test_the_forms_are_read_as_the_stock_reads_them(tmp_path, content):
    path = write(tmp_path, content)
    assert load_label_mapping(path) == stock.load_label_mapping(str(path))


def test_a_missing_file_is_one_warning(tmp_path, caplog):
    assert load_label_mapping(tmp_path / "index_to_name.json") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        (["cat"], "holds a list"),
        ("3", "holds a number"),
        ({"0": 3}, "the label of '0' is a number"),
        ({"0": []}, "the label of '0' is a list"),
        ({"0": ["a", None]}, "the label of '0' is null"),
    ],
)
def test_what_is_no_map_of_labels(tmp_path, content, reason):
    with pytest.raises(LabelMapError, match=reason):
        load_label_mapping(write(tmp_path, content))


@pytest.mark.parametrize("mapping", [None, {"0": "cat", "1": "dog", "2": "cow"}])
@pytest.mark.parametrize("classes", [None, [[2, 0], [1, 2]]])
def test_labels_are_paired_as_the_stock_pairs_them(mapping, classes):
    rows = [[0.7, 0.2], [0.6, 0.1]]
    assert map_class_to_label(rows, mapping, classes) == stock.map_class_to_label(rows, mapping, classes)


def test_a_class_without_a_label_goes_by_its_index():
    assert map_class_to_label([[0.9, 0.1]], {"0": "cat"}, [[0, 1]]) == [{"cat": 0.9, "1": 0.1}]


def test_no_rows_no_labels():
    assert map_class_to_label([], {"0": "cat"}) == []
