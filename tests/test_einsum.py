"""Einstein sums against NumPy, their gradients against PyTorch, and what they are taken apart into."""

from __future__ import annotations

import itertools
import string

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, ShapeError, TinygradError

TABLE = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ij,kj->ki", (2, 3), (4, 3)),
    ("ji,jk->ki", (3, 2), (3, 4)), ("i,i", (3,), (3,)),
    ("i,i->i", (3,), (3,)), ("i,j", (3,), (2,)), ("i,j->ji", (3,), (2,)), ("i,i->", (0,), (0,)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("bi,bi->b", (2, 3), (2, 3)), ("bi,bj->bij", (2, 3), (2, 4)),
    ("abij,abjk->abik", (2, 3, 1, 4), (2, 3, 4, 2)), ("aibj,jbk->kai", (2, 3, 4, 2), (2, 4, 3)),
    ("ijk,kji", (2, 3, 4), (4, 3, 2)), ("ijk,kj->i", (2, 3, 4), (4, 3)), ("ij,->ij", (2, 3), ()), (",", (), ()),
    ("ii", (3, 3)), ("ii->i", (3, 3)), ("iji->j", (2, 3, 2)), ("iii->i", (2, 2, 2)), ("ijij->ij", (2, 3, 2, 3)),
    ("ijji", (2, 3, 3, 2)), ("iij,jkk->ki", (2, 2, 3), (3, 2, 2)), ("ii,ii->i", (2, 2), (2, 2)),
    ("ij->ji", (2, 3)), ("ba", (2, 3)), ("bAa", (2, 3, 4)), ("ijk->", (2, 3, 4)), ("ijk->j", (2, 3, 4)),
    ("->", ()), ("", ()),
    ("ij->ij", (2, 3)), ("...", (2, 3)), ("...->...", (2, 3)), ("...i->i...", (2, 3, 4)), ("i...->...", (2, 3, 4)),
    ("i...j->j...i", (2, 3, 4)), ("...ii->...i", (4, 2, 2)), ("i...i", (2, 3, 2)), ("i...", (3,)), ("...i", (3,)),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("...ij,...jk", (5, 1, 2, 3), (4, 3, 2)),
    ("...i,...i->...", (2, 3), (4, 1, 3)),
    ("...,...", (2, 1), (3,)), ("i...,i...->...i", (3, 1, 2), (3, 4, 1)), ("...a,b...->...ab", (2, 3), (4, 2)),
    ("i,...->...i", (3,), (2, 2)), ("ij->...ij", (2, 3)), ("i->...", (3,)),
    ("ij,jk->ik", (2, 1), (3, 4)), ("ij,ij", (1, 3), (2, 1)), ("ij,ij->ij", (1, 3), (2, 1)), ("ii,i->i", (1, 1), (3,)),
    ("i,i,i->", (3,), (1,), (3,)), ("i,i->i", (0,), (1,)), ("ij,jk->ik", (2, 0), (0, 3)), ("ij,jk->ik", (0, 2), (2, 3)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ij,ij,ij->i", (2, 3), (2, 3), (2, 3)), ("i,j,k->kji", (2,), (3,), (4,)),
    ("ij,jk,ki", (2, 3), (3, 4), (4, 2)), ("a,ab,b,...->...", (2,), (2, 3), (3,), (4, 1)), ("i,,j->ij", (2,), (), (3,)),
    ("...ab,...bc,cd,...d->...a", (2, 3, 4), (4, 2), (2, 5), (3, 1, 5)), (" i j , j k -> i  k ", (2, 3), (3, 4)),
    ("Ab,bA->A", (2, 3), (3, 2)),
]  # fmt: skip


def of_shapes(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.array(rng.normal(size=shape[::-1])).T if i % 2 else rng.normal(size=shape) for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize(("subscripts", "shapes"), [(row[0], row[1:]) for row in TABLE])
def test_table(subscripts, shapes):
    arrays = of_shapes(shapes)
    expected = np.einsum(subscripts, *arrays)
    tensors = [tg.from_numpy(a) for a in arrays]
    y = tg.einsum(subscripts, *tensors)
    assert isinstance(y, tg.Tensor)
    assert all(y is not x for x in tensors)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    single = tg.einsum(subscripts, *[a.astype("float32") for a in arrays])
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(("subscripts", "shapes"), [(row[0], row[1:]) for row in TABLE])
def test_table_against_torch(subscripts, shapes):
    torch = pytest.importorskip("torch")
    from parity import compare

    compare(lambda *x: tg.einsum(subscripts, *x), lambda *x: torch.einsum(subscripts, *x), *of_shapes(shapes))


def random_sum(seed):
    """Subscripts, shapes, and whether the result leaves out the axes under "...", which NumPy's plain way refuses."""
    rng = np.random.default_rng(seed)
    letters = rng.permutation(list(string.ascii_letters))[:5].tolist()
    size = {letter: int(rng.choice([0, 1, 2, 2, 3, 3, 4])) for letter in letters}
    dots = rng.integers(1, 4, 3).tolist()
    texts, shapes = [], []
    for _ in range(int(rng.integers(1, 5))):
        named = [str(letter) for letter in rng.choice(letters, rng.integers(0, 4))]
        stretched = {letter for letter in letters if rng.random() < 0.1}
        shape = [1 if letter in stretched else size[letter] for letter in named]
        if rng.random() < 0.4:
            at, count = int(rng.integers(0, len(named) + 1)), int(rng.integers(0, 4))
            under = [1 if rng.random() < 0.3 else n for n in dots[3 - count :]]
            named, shape = [*named[:at], "...", *named[at:]], [*shape[:at], *under, *shape[at:]]
        texts.append((" " if rng.random() < 0.2 else "").join(named))
        shapes.append(tuple(shape))
    subscripts = ",".join(texts)
    left_out = False
    if rng.random() < 0.7:
        every = sorted(set(subscripts) & set(string.ascii_letters))
        result = rng.permutation(every)[: rng.integers(0, len(every) + 1)].tolist()
        left_out = rng.random() < 0.3
        if not left_out:
            result.insert(int(rng.integers(0, len(result) + 1)), "...")
        subscripts += "->" + "".join(result)
    return subscripts, shapes, left_out


@pytest.mark.parametrize("seed", range(400))
def test_random_subscripts(seed):
    subscripts, shapes, left_out = random_sum(seed)
    arrays = of_shapes(shapes, seed)
    expected = np.einsum(subscripts, *arrays, optimize=left_out)
    y = tg.einsum(subscripts, *[tg.from_numpy(a) for a in arrays])
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(400))
def test_random_subscripts_against_torch(seed):
    torch = pytest.importorskip("torch")
    from parity import compare

    subscripts, shapes, _ = random_sum(seed)
    compare(lambda *x: tg.einsum(subscripts, *x), lambda *x: torch.einsum(subscripts, *x), *of_shapes(shapes, seed))


@pytest.mark.parametrize("seed", range(0, 400, 8))
def test_derivatives_of_random_subscripts(seed):
    subscripts, shapes, _ = random_sum(seed)
    if sum(int(np.prod(shape)) for shape in shapes) > 40:
        shapes = [tuple(min(n, 2) for n in shape) for shape in shapes]
    tensors = [tg.tensor(a, requires_grad=True) for a in of_shapes(shapes, seed)]
    assert tg.gradcheck(lambda *x: tg.einsum(subscripts, *x), tensors, atol=1e-7, rtol=1e-6)
    assert tg.gradgradcheck(lambda *x: tg.einsum(subscripts, *x), tensors, atol=1e-6, rtol=1e-5)


# --- What it is taken apart into ---


def ops_of(subscripts, *shapes):
    with tg.Tape() as tape:
        tg.einsum(subscripts, *[tg.ones(shape) for shape in shapes])
    return [node.op.name for node in tape], tape


@pytest.mark.parametrize(
    ("subscripts", "shapes", "names"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], ["matmul"]),
        ("ij,kj->ik", [(2, 3), (4, 3)], ["permute_dims", "matmul"]),
        ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)], ["matmul"]),
        ("...ij,...jk->...ik", [(5, 6, 2, 3), (5, 6, 3, 4)], ["matmul"]),
        ("bi,bj->bij", [(5, 2), (5, 3)], ["reshape", "reshape", "multiply"]),
        ("ij,ij->ij", [(2, 3), (2, 3)], ["multiply"]),
        ("ij->ji", [(2, 3)], ["permute_dims"]),
        ("ij->i", [(2, 3)], ["sum"]),
        ("ijk,kl->ijl", [(2, 3, 4), (4, 5)], ["reshape", "matmul", "reshape"]),
        ("ia,jb->ij", [(2, 3), (4, 5)], ["sum", "sum", "reshape", "reshape", "multiply"]),
        ("ii->i", [(3, 3)], ["getitem"]),
        ("ij,jk->ik", [(2, 1), (3, 4)], ["reshape", "sum", "reshape", "reshape", "multiply"]),
    ],
)
def test_what_it_is_made_of(subscripts, shapes, names):
    found, _ = ops_of(subscripts, *shapes)
    assert [name for name in found if not (name == "permute_dims" and "permute_dims" not in names)] == names


def test_a_chain_is_multiplied_from_the_cheap_end():
    for subscripts, shapes in (
        ("ij,jk,kl->il", [(300, 200), (200, 100), (100, 1)]),
        ("ij,jk,kl->il", [(1, 200), (200, 100), (100, 300)]),
    ):
        _, tape = ops_of(subscripts, *shapes)
        assert max(int(np.prod(node.shape)) for node in tape) <= 300


def test_many_operands():
    letters = string.ascii_letters[:13]
    subscripts = ",".join(a + b for a, b in itertools.pairwise(letters)) + "->am"
    arrays = of_shapes([(2, 2)] * 12)
    y = tg.einsum(subscripts, *[tg.from_numpy(a) for a in arrays])
    np.testing.assert_allclose(y, np.linalg.multi_dot(arrays), rtol=1e-10)


# --- Dtypes ---


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "float32", "float64"])
@pytest.mark.parametrize("subscripts", ["ij,jk->ik", "ij,ij->i", "ij,ij->ij", "...i,ij->...j", "ij->j", "ij,jk,kl->il"])
def test_every_dtype_is_kept_as_numpy_keeps_it(subscripts, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 100, (3, 3)).astype(dtype) for _ in subscripts.split("->")[0].split(",")]
    expected = np.einsum(subscripts, *arrays)
    y = tg.einsum(subscripts, *arrays)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_numbers_and_lists_follow_the_tensors():
    for dtype in ("float32", "float64"):
        x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
        for factor in (0.1, np.float64(0.1), [0.1, 0.2], 2, [1, 2], True, tg.tensor([1, 2]), np.array([1, 2], np.int8)):
            subscripts = "ij,->ij" if np.ndim(factor) == 0 else "ij,j->ij"
            y = tg.einsum(subscripts, x, factor)
            assert y.dtype == x.dtype
            np.testing.assert_allclose(y, np.einsum(subscripts, x.numpy(), np.asarray(factor)), rtol=1e-6)
            y.sum().backward()
            assert x.grad.dtype == x.dtype
    assert tg.einsum("i,i", [1, 2], [3.0, 4.0]).dtype == np.float32
    assert tg.einsum("i,i", [1, 2], [3, 4]).dtype == np.int64
    assert tg.einsum("i,i", tg.tensor([1, 2], dtype="int8"), tg.tensor([3, 4], dtype="int32")).dtype == np.int32


@pytest.mark.parametrize("subscripts", ["i,i", "i,i->i", "i,j", "i,i,i"])
def test_two_floating_dtypes_are_refused_as_in_every_product(subscripts):
    x, z = tg.ones(2), tg.ones(2, dtype="float64")
    with pytest.raises(DtypeError, match="float32 and float64"):
        tg.einsum(subscripts, x, *[z] * subscripts.count(","))
    with pytest.raises(DtypeError, match="float32 and float64"):
        tg.outer(x, z)


def test_what_is_no_number_is_refused():
    for wrong in (None, "a", object(), [None], 1j):
        with pytest.raises(TinygradError):
            tg.einsum("i,i", tg.ones(2), wrong)


# --- Errors ---


@pytest.mark.parametrize(
    ("subscripts", "shapes", "error", "says"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)], ShapeError, "3 and 4"),
        ("...i,...i->...", [(2, 3), (4, 3)], ShapeError, "2 and 4"),
        ("ii->i", [(3, 1)], ShapeError, "3 and 1"),
        ("ii", [(1, 3)], ShapeError, "1 and 3"),
        ("ijk", [(2, 3)], ShapeError, "operand 0 .*\n.*'ijk'\n.*2 axes"),
        ("i,ij", [(2,), (2, 3, 4)], ShapeError, "operand 1"),
        ("i,j,k", [(2,), (2,)], ArgumentError, "expected 3 .*\n.*got 2"),
        ("i", [(2,), (2,)], ArgumentError, "expected 1 .*\n.*got 2"),
        ("ij->ki", [(2, 3)], ArgumentError, "'k'"),
        ("ij->iji", [(2, 3)], ArgumentError, "'i' twice"),
        ("ij->......", [(2, 3)], ArgumentError, "'.'"),
        ("iα", [(2, 3)], ArgumentError, "'α'"),
        ("i_", [(2, 3)], ArgumentError, "'_'"),
        ("i->>i", [(2,)], ArgumentError, "'>'"),
        ("i>i", [(2,)], ArgumentError, "'>'"),
        ("..i", [(2,)], ArgumentError, "'.'"),
        ("....i", [(2,)], ArgumentError, "'.'"),
    ],
)  # fmt: skip
def test_errors(subscripts, shapes, error, says):
    with pytest.raises(error, match=says) as caught:
        tg.einsum(subscripts, *[tg.ones(shape) for shape in shapes])
    assert str(caught.value).startswith("einsum: ")
    with pytest.raises(ValueError):  # NumPy refuses it too
        np.einsum(subscripts, *[np.ones(shape) for shape in shapes])
