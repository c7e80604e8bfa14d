"""Figures beside accuracy are those of an independent library; the five best answers are kept in records."""

import torch
from conftest import handful
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as independent
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from labnn import Experiment, evaluate, open_dataset, run_or_load
from labnn.experiment import Run
from labnn.report.metrics import scores
from labnn.train import Evaluation

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.permutations(range(7))), min_size=1, max_size=40)


@given(ANSWERS)
def test_macro_figures_and_top_five_are_those_of_scikit_learn(pairs):
    labels, best = (
        list(column) for column in zip(*((label, order[:5]) for label, order in pairs), strict=True)
    )
    answers = [row[0] for row in best]
    test = Evaluation(1.0, 0.0, torch.tensor(answers), torch.tensor(labels), 0.0, torch.tensor(best))
    means = independent.precision_recall_fscore_support(labels, answers, average="macro", zero_division=0)
    accuracy = independent.accuracy_score(labels, answers)
    top = sum(label in row for label, row in zip(labels, best, strict=True)) / len(labels)
    expected = [accuracy, top, means[1], means[0], means[2]]
    told = scores({"A": test})["A"]
    for share, text in zip(expected, told, strict=True):
        assert abs(float(text.removesuffix(" %").replace(",", ".")) - 100 * share) <= 0.05 + 1e-9


def test_best_answers_are_sorted_and_begin_with_the_prediction():
    torch.manual_seed(0)
    for classes in (10, 2):
        model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))
        images, labels = handful().tensors
        test = evaluate(model, DataLoader(TensorDataset(images, labels % classes), batch_size=4))
        with torch.no_grad():
            expected = model(images).sort(dim=1, descending=True).indices[:, :5]
        assert torch.equal(test.best, expected) and torch.equal(test.best[:, 0], test.predictions)


def test_record_keeps_five_answers_as_text(tiny_root, tmp_path):
    experiment = Experiment(epochs=1, image_size=32, batch_size=8, test_size=0)
    run = run_or_load(experiment, open_dataset(tiny_root), tmp_path, cache_dir=tmp_path / "cache")
    names = ["label", "prediction", "second", "third", "fourth", "fifth"]
    [path] = tmp_path.glob("*/predictions.csv")
    assert list(Run.load(path.parent).predictions) == list(run.predictions) == names
    assert all(len(set(row)) == 5 for row in run.predictions[names[1:]].to_numpy().tolist())
