"""Broken bytes, senseless values and odd names, drawn at random: read, or told in our one sentence."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import scipy.io
from conftest import MINICARS, write_annotations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_layouts import single_file

from labnn.data import CarModelsDataset, open_dataset
from labnn.kit.errors import LabError

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

ANNOTATIONS = (MINICARS / "cars_test_annos_withlabels.mat").read_bytes()
CLASSES = (MINICARS / "devkit" / "cars_meta.mat").read_bytes()
PICTURE = (MINICARS / "cars_train" / "00001.jpg").read_bytes()


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with a few bytes changed, a piece cut out, or random bytes after its start."""
    places = st.integers(0, len(content) - 1)
    changes = st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)
    cuts = st.tuples(places, places).map(sorted)
    return st.one_of(
        changes.map(lambda at: bytes(at.get(index, byte) for index, byte in enumerate(content))),
        cuts.map(lambda cut: content[: cut[0]] + content[cut[1] :]),
        st.tuples(places, st.binary(max_size=200)).map(lambda parts: content[: parts[0]] + parts[1]),
        st.binary(max_size=400),
    )


def reads_or_tells(read) -> None:
    try:
        read()
    except LabError as error:
        assert str(error).endswith(".") and "\n" not in str(error)


@BOUNDED
@given(damaged(ANNOTATIONS))
def test_damaged_annotations(tmp_path, content):
    (tmp_path / "annos.mat").write_bytes(content)
    reads_or_tells(lambda: CarModelsDataset(tmp_path / "annos.mat", MINICARS / "cars_test"))


@BOUNDED
@given(damaged(CLASSES))
def test_damaged_class_list(tiny_root, content):
    (tiny_root / "devkit" / "cars_meta.mat").write_bytes(content)
    reads_or_tells(lambda: open_dataset(tiny_root))


@pytest.fixture(scope="module")
def single_root(tmp_path_factory):
    """The embedded set as one file of annotations and one folder of photos."""
    root = tmp_path_factory.mktemp("single") / "set"
    shutil.copytree(MINICARS, root)
    single_file(root)
    return root


@BOUNDED
@given(data=st.data())
def test_damaged_single_file_of_annotations(single_root, data):
    file = single_root / "cars_annos.mat"
    content = file.read_bytes()
    file.write_bytes(data.draw(damaged(content)))
    try:
        reads_or_tells(lambda: open_dataset(single_root))
    finally:
        file.write_bytes(content)


@BOUNDED
@given(damaged(PICTURE))
def test_damaged_picture(tiny_root, content):
    (tiny_root / "cars_train" / "00001.jpg").write_bytes(content)
    reads_or_tells(lambda: open_dataset(tiny_root, crop_to_box=True).train[0])


VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
    st.booleans(),
    st.just(float("inf")),
)
FILE_NAMES = st.one_of(st.just("00001.jpg"), st.text(max_size=12), VALUES)


@BOUNDED
@given(st.lists(st.tuples(FILE_NAMES, VALUES, st.tuples(VALUES, VALUES, VALUES, VALUES)), max_size=3))
def test_senseless_values_in_annotations(tmp_path, records):
    names, classes, boxes = zip(*records, strict=True) if records else ((), (), ())
    try:
        write_annotations(tmp_path / "annos.mat", names, classes, boxes)
    except (TypeError, ValueError, UnicodeEncodeError, OverflowError, scipy.io.matlab.MatWriteError):
        return  # what no .mat file can hold

    def read() -> None:
        data = CarModelsDataset(tmp_path / "annos.mat", MINICARS / "cars_train", crop_to_box=True)
        for index in range(len(data)):
            data.image(index)

    reads_or_tells(read)


FOLDER_NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=90) | st.sampled_from(
    [
        " ",
        "...",
        "a.",
        "-",
        "~",
        "CON",
        "x" * 255,
        "ё" * 127,
        "a\u0301",
        "\udce1\udca5",
        "a\nb",
        "{0}",
        "%s",
        "train",
    ]
)


@BOUNDED
@given(st.lists(FOLDER_NAMES, min_size=1, max_size=3, unique=True), st.sampled_from(["train", "test"]))
def test_class_folders_of_any_name(names, alone):
    """Names that a disk can hold; the last of several stands in one part only."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in names:
            for part in (alone,) if name == names[-1] and len(names) > 1 else ("train", "test"):
                try:
                    (root / part / name).mkdir(parents=True)
                except (OSError, UnicodeEncodeError):
                    return  # "." and "..", names too long, characters that are none
                os.link(MINICARS / "cars_train" / "00001.jpg", root / part / name / "1.jpg")

        def read() -> None:
            data = open_dataset(root)
            assert len(set(data.class_names)) == len(data.class_names)
            assert all(
                name.encode() and "\n" not in name for name in [*data.class_names, str(data.describe())]
            )
            assert [data.train[index][1] for index in range(len(data.train))] == data.train.labels.tolist()

        reads_or_tells(read)
