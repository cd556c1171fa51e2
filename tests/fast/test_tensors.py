"""Tensors as such: their shapes, and sums of gradients that were computed in parts."""

from copy import deepcopy

import pytest

from tiny_llm.fast.tensors import add_scaled, scaled, shape


def example():
    return {"matrix": [[1.0, -2.0], [3.0, 0.5], [0.0, 8.0]], "vector": [4.0, -5.0]}


def test_a_shape_is_rows_and_columns_or_a_length():
    assert {name: shape(tensor) for name, tensor in example().items()} == {
        "matrix": (3, 2),
        "vector": (2,),
    }
    assert shape([[1.0, 2.0, 3.0]]) == (1, 3)


@pytest.mark.parametrize("tensor", [[[1.0], [2.0, 3.0]], [[1.0, 2.0], []]])
def test_uneven_rows_have_no_shape(tensor):
    with pytest.raises(ValueError, match="rows of one length, not of"):
        shape(tensor)


def test_scaled_tensors_are_new_ones():
    tensors = example()
    assert scaled(tensors, -2.0) == {
        "matrix": [[-2.0, 4.0], [-6.0, -1.0], [0.0, -16.0]],
        "vector": [-8.0, 10.0],
    }
    assert tensors == example()
    same = scaled(tensors, 1.0)
    assert same == tensors
    assert same["vector"] is not tensors["vector"]
    assert not {id(row) for row in same["matrix"]} & {id(row) for row in tensors["matrix"]}


def test_a_sum_grows_in_place_by_a_part_of_what_is_added():
    total, addend = example(), {"vector": [1.0, 2.0], "matrix": [[10.0, 20.0]] * 3}
    before, vector, row = deepcopy(addend), total["vector"], total["matrix"][0]
    add_scaled(total, addend, 0.5)
    assert total == {"matrix": [[6.0, 8.0], [8.0, 10.5], [5.0, 18.0]], "vector": [4.5, -4.0]}
    assert total["vector"] is vector and total["matrix"][0] is row
    assert addend == before
