import numpy as np
import pytest
import torch
from torch import nn

from archive_tool.errors import BuildError
from archive_tool.publishing.evaluation import evaluate


class Same(nn.Module):
    """A model that returns its input."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x * 1


@pytest.fixture
def same():
    return Same()


SCORES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("scores", "classes", "accuracy"),
    [
        (SCORES, torch.tensor([0, 1, 0, 1]), 1.0),
        (SCORES, np.array([0, 1, 1, 1]), 0.75),
        (SCORES, [1, 0, 1, 0], 0.0),
        (SCORES, torch.tensor([[0], [1], [0], [1]]), 1.0),
        (SCORES[:, 1], [0, 1, 0, 1], 1.0),
        (SCORES[:, 1:], [False, True, False, False], 0.75),
        (torch.tensor([-3.0, 2.0, 0.4, 5.0]), [0, 1, 1, 1], 1.0),
        (torch.tensor([3, 1, 2, 0]), [3, 1, 2, 1], 0.75),
    ],
)
def test_accuracy(same, scores, classes, accuracy):
    assert evaluate(same, scores, classes, has_rows=True) == {"accuracy": accuracy}


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_errors_of_numbers(same, shape):
    found = torch.tensor([1.0, 2.0, 3.0]).reshape(shape)
    for targets in (torch.tensor([1.0, 4.0, 3.0]), np.array([[1.0], [4.0], [3.0]])):
        measured = evaluate(same, found, targets, has_rows=True)
        assert measured == {
            "mean_absolute_error": pytest.approx(2 / 3),
            "mean_squared_error": pytest.approx(4 / 3),
        }


def test_one_hot_targets_are_numbers(same):
    assert evaluate(same, SCORES, SCORES, has_rows=True)["mean_squared_error"] == 0.0


def test_metrics_of_ones_own(same):
    metrics = {"largest": lambda outputs, targets: outputs.max() + targets.max()}
    assert evaluate(same, SCORES, [0, 1, 0, 7], has_rows=True, metrics=metrics) == {"largest": pytest.approx(7.9)}


def test_rows_are_run_in_parts_if_they_may(same):
    rows = torch.ones(130, 2)
    evaluate(same, rows, torch.zeros(130, dtype=torch.int64), has_rows=True)
    assert same.seen == [64, 64, 2]
    evaluate(same, rows, torch.zeros(130, dtype=torch.int64), has_rows=False)
    assert same.seen[3:] == [130]


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (SCORES, [0, 1], "x_test has 4 rows, and y_test 2"),
        (SCORES, 1, "x_test has 4 rows, and y_test none"),
        (SCORES, torch.zeros(4, 3), r"gives \[4, 2\] for the test set, and the targets are \[4, 3\]"),
        (torch.zeros(4, 2, 2), [0, 1, 0, 1], r"gives \[4, 2, 2\].*classes"),
        (torch.zeros(0, 2), [], "no rows"),
        (SCORES, "text", "no array of numbers"),
        (torch.full((2,), float("nan")), torch.zeros(2), "mean_absolute_error is nan"),
        (torch.tensor(1.0), [1], "do not have one number of rows"),
    ],
)
def test_a_test_set_that_does_not_fit(same, x, y, reason):
    with pytest.raises(BuildError, match=reason):
        evaluate(same, x, y, has_rows=True)
