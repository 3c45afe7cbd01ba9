"""Arrays in and out of safetensors files."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from wardround.training.tensors import read_tensors, write_tensors


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int8", "uint8", "bool"])
def test_arrays_come_back_as_they_were_and_writable(tmp_path: Path, dtype: str) -> None:
    arrays = {
        "matrix": np.arange(6).reshape(2, 3).astype(dtype),
        "number": np.array(1, dtype),
        "none": np.zeros(0, dtype),
    }
    write_tensors(tmp_path / "file", arrays)
    for name, value in read_tensors(tmp_path / "file").items():
        assert (value.dtype, value.shape) == (arrays[name].dtype, arrays[name].shape)
        np.testing.assert_array_equal(value, arrays[name])
        value += value


def test_views_are_written_as_they_read_not_as_they_lie(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "file", {"turned": matrix.T, "reversed": matrix[::-1], "column": matrix[:, 1]})
    loaded = load_file(tmp_path / "file")
    np.testing.assert_array_equal(loaded["turned"], matrix.T)
    np.testing.assert_array_equal(loaded["reversed"], matrix[::-1])
    np.testing.assert_array_equal(loaded["column"], [1, 4])


def test_the_order_of_tensors_does_not_change_the_bytes(tmp_path: Path) -> None:
    first, second = np.ones(3, np.float32), np.zeros(2, np.float64)
    write_tensors(tmp_path / "ab", {"a": first, "b": second})
    write_tensors(tmp_path / "ba", {"b": second, "a": first})
    assert (tmp_path / "ab").read_bytes() == (tmp_path / "ba").read_bytes()


def test_a_folder_that_is_not_there_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_tensors(tmp_path / "absent" / "file", {"a": np.ones(1)})
    assert list(tmp_path.iterdir()) == []
