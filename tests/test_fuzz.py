"""Broken bytes and senseless values, drawn at random: the readers give a data set or our one-sentence error, never another."""

import shutil

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
