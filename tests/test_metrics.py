"""Figures beside accuracy are those of an independent library; the five best answers are kept in records."""

import numpy as np
import torch
from conftest import handful
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as independent
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from labnn import Experiment, evaluate, open_dataset, run_or_load
from labnn.experiment import Run
from labnn.report.metrics import class_scores, scores
from labnn.train import Evaluation

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(ANSWERS)
def test_classes_have_the_scores_of_scikit_learn(pairs):
    labels, answers = zip(*pairs, strict=True)
    table = class_scores(labels, answers)
    expected = independent.precision_recall_fscore_support(labels, answers, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert np.allclose(table[name], values)


def answered(labels, best) -> Evaluation:
    labels, best = torch.tensor(labels), torch.tensor(best)
    accuracy = (best[:, 0] == labels).double().mean().item()
    return Evaluation(1.0, accuracy, best[:, 0], labels, 0.0, best)


def test_table_has_top_five_and_macro_figures():
    labels, best = [0, 1, 2, 2], [[0, 1, 2], [2, 1, 0], [2, 0, 1], [1, 0, 3]]
    table = scores({"A": answered(labels, best)})
    top = independent.f1_score(labels, [row[0] for row in best], average="macro", zero_division=0)
    assert table["A"].tolist()[:2] == ["50,0 %", "75,0 %"]
    assert table["A"].tolist()[-1] == f"{100 * top:.1f} %".replace(".", ",")


def test_best_answers_are_sorted_and_begin_with_the_prediction():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    test = evaluate(model, DataLoader(TensorDataset(*handful().tensors), batch_size=4))
    with torch.no_grad():
        expected = model(handful().tensors[0]).sort(dim=1, descending=True).indices[:, :5]
    assert torch.equal(test.best, expected) and torch.equal(test.best[:, 0], test.predictions)


def test_record_keeps_five_answers_as_text(tiny_root, tmp_path):
    experiment = Experiment(epochs=1, image_size=32, batch_size=8, test_size=0)
    run = run_or_load(experiment, open_dataset(tiny_root), tmp_path, cache_dir=tmp_path / "cache")
    names = ["label", "prediction", "second", "third", "fourth", "fifth"]
    [path] = tmp_path.glob("*/predictions.csv")
    assert list(Run.load(path.parent).predictions) == list(run.predictions) == names
    assert all(len(set(row)) == 5 for row in run.predictions[names[1:]].to_numpy().tolist())


def test_evaluation_of_two_classes_has_two_best():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    labels = torch.zeros(4, dtype=torch.int64)
    assert evaluate(model, [(torch.rand(4, 3, 8, 8), labels)]).best.shape == (4, 2)
