"""Files: what is saved comes back, and a file is either whole or untouched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, FileError

DTYPES = ["float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))]


def same(a, b):
    """Equal to the last bit, with types and dtypes."""
    if isinstance(b, (tg.Tensor, np.ndarray)):
        assert isinstance(a, tg.Tensor)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    elif isinstance(b, dict):
        assert type(a) is dict
        assert list(map(repr, a)) == list(map(repr, b))
        for key in b:
            same(a[key], b[key])
    elif isinstance(b, (list, tuple)):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    else:
        assert type(a) is type(b)
        assert a == b or (a != a and b != b)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


# --- There and back ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (0,), (2, 0, 3), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back(dtype, shape, path):
    array = np.array(np.random.default_rng(0).uniform(0, 99, shape), dtype)
    tg.save({"tensor": tg.tensor(array), "array": array}, path)
    state, metadata = tg.load(path)
    assert set(state) == {"tensor", "array"}
    assert metadata == {}
    same([state["tensor"], state["array"]], [array, array])
    assert not any(t.requires_grad for t in state.values())
    if array.size:
        state["tensor"][...] = 1
        assert np.all(state["tensor"].numpy() == 1), "what is loaded can be written"
    same(tg.load(path)[0]["tensor"], array)


@pytest.mark.parametrize(
    "layout", [lambda a: a.T, lambda a: a[::2, 1:], lambda a: a[:, ::-1], lambda a: np.broadcast_to(a[:1], a.shape)]
)
def test_layout_and_byte_order_are_put_right(layout, path):
    array = np.arange(24.0).reshape(4, 6)
    odd = layout(array)
    tg.save({"t": tg.from_numpy(odd), "a": odd, "swapped": odd.astype(">f8")}, path)
    state, _ = tg.load(path)
    for name in ("t", "a", "swapped"):
        same(state[name], odd.copy())
    same(tg.Tensor(safetensors.numpy.load_file(path)["t"]), odd.copy())


names = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.sampled_from(["a", "a/b", "0", "__metadata__"])
)
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    names,
    st.integers(0, 3).map(lambda n: tg.tensor(np.arange(n * 1.0))),
)
nests = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(names, st.integers(-2, 2)), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(nest=nests, metadata=st.dictionaries(names, names, max_size=2))
def test_any_nest_comes_back(nest, metadata, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "nest"
    tg.save(nest, path, metadata)
    state, found = tg.load(path)
    assert found == metadata
    flat = isinstance(nest, dict) and all(isinstance(v, tg.Tensor) for v in nest.values())
    same(
        dict(sorted(state.items(), key=repr)) if flat else state, dict(sorted(nest.items(), key=repr)) if flat else nest
    )


@pytest.mark.parametrize(
    "state",
    [
        {"a": {"b": np.ones(2)}, "a/b": np.zeros(3)},
        {0: np.ones(2), "0": np.zeros(3)},
        {"__metadata__": np.ones(2)},
        {"__metadata__": np.ones(2), "x": 1},
    ],
)
def test_names_that_might_collide_do_not(state, path):
    tg.save(state, path)
    same(tg.load(path)[0], state)


def test_modules_and_optimizers_come_back(path):
    torchlike = tg.nn.Sequential(tg.nn.Embedding(5, 3), tg.nn.LSTM(3, 2, 2))
    optimizer = tg.optim.Adam(torchlike.parameters(), betas=(0.8, 0.9))
    torchlike(tg.tensor([[1], [2]]))[0].sum().backward()
    optimizer.step()
    everything = {
        "model": torchlike.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "rng": [1, "x", None],
    }
    tg.save(everything, path, {"format": "café", "版本": "一"})
    state, metadata = tg.load(path)
    assert metadata == {"format": "café", "版本": "一"}
    same(state["optimizer"], everything["optimizer"])
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.9)
    assert (state["step"], state["rng"]) == (7, [1, "x", None])
    fresh = tg.nn.Sequential(tg.nn.Embedding(5, 3), tg.nn.LSTM(3, 2, 2))
    fresh.load_state_dict(state["model"])
    same(fresh.state_dict(), torchlike.state_dict())


def test_numbers_of_numpy_become_python_s(path):
    tg.save({"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "x": 1e-300}, path)
    same(tg.load(path)[0], {"i": 3, "f": 0.5, "b": True, "x": 1e-300})


def test_plain_safetensors_reads_our_files_and_we_read_its(path):
    arrays = {"weight": np.arange(6.0).reshape(2, 3), "ünïcode.名": np.array(3, np.int32), "": np.zeros((0, 2))}
    tg.save(arrays, path, {"k": "v"})
    for name, array in safetensors.numpy.load_file(path).items():
        same(tg.Tensor(array), arrays[name])
    safetensors.numpy.save_file(arrays, path, {"by": "another"})
    state, metadata = tg.load(str(path))
    assert metadata == {"by": "another"}
    assert set(state) == set(arrays)
    for name, array in arrays.items():
        same(state[name], array)
    safetensors.numpy.save_file({"half": np.array([0.5, 65504.0], np.float16)}, path)
    same(tg.load(path)[0], {"half": np.array([0.5, 65504.0], np.float32)})


def foreign(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


WHOLE = foreign({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))


@pytest.mark.parametrize("content", [b"", b"x", b"no tensors here, only text\n" * 9, bytes(100), b"\xff" * 100])
def test_garbage_is_refused_by_name(content, path):
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"not a whole safetensors file: .*state\.safetensors"):
        tg.load(path)


def test_every_truncation_is_refused(path):
    path.write_bytes(WHOLE)
    same(tg.load(path)[0], {"a": np.zeros(2, np.float32)})
    for n in range(len(WHOLE)):
        path.write_bytes(WHOLE[:n])
        with pytest.raises(FileError, match="not a whole"):
            tg.load(path)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "C64"])
def test_a_dtype_we_do_not_have_is_refused_by_name(dtype, path):
    size = {"BF16": 2, "F8_E4M3": 1, "C64": 8}[dtype]
    path.write_bytes(foreign({"odd": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}, bytes(size)))
    with pytest.raises(FileError, match=f"odd (.|\n)*{dtype}"):
        tg.load(path)


@pytest.mark.parametrize(
    "structure", ["{", "[]]", '{"tensor": "b"}', '{"dict": 3}', '{"tensor": ["a"]}', '{"a": 1, "b": 2}', '{"what": []}']
)
def test_a_damaged_structure_is_refused(structure, path):
    header = json.loads(WHOLE[8 : 8 + WHOLE[0]])
    path.write_bytes(foreign({**header, "__metadata__": {"tinygrad_rnn.structure": structure}}, bytes(8)))
    with pytest.raises(FileError, match="structure is damaged"):
        tg.load(path)


def test_what_is_no_file_is_refused_in_words(tmp_path):
    with pytest.raises(FileError, match=r"no such file: .*nowhere"):
        tg.load(tmp_path / "nowhere")
    with pytest.raises(FileError, match="a folder, not a file"):
        tg.load(tmp_path)
    with pytest.raises(OSError, match="no such file"):
        tg.load("")


@pytest.mark.parametrize(
    "state",
    [
        {"a": {1}},
        {"a": object()},
        {(1, 2): 3},
        {"a": 1j},
        {"a": np.complex64(1)},
        {"a": np.datetime64(1, "s")},
        {"a": np.array(["x"])},
        {"a": np.array([None])},
        {"a": np.ones(1, "complex64")},
        {"a": {"b": np.ones(1, "M8[s]")}},
        {"a": np.ones(1, np.longdouble)},
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(state, path):
    path.write_bytes(b"old")
    with pytest.raises(ArgumentError, match="save: "):
        tg.save(state, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_the_name_of_the_structure_is_ours(path):
    with pytest.raises(ArgumentError, match="is taken"):
        tg.save({}, path, {"tinygrad_rnn.structure": "{}"})


# --- Whole or untouched ---


def test_flushed_to_the_disk_before_it_is_renamed(path, monkeypatch):
    calls = []

    def watch(name, note):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, **k: (calls.append(note(*a)), real(*a, **k))[1])

    watch("fsync", lambda fd: ("folder" if os.path.isdir(f"/dev/fd/{fd}") else "file", os.fstat(fd).st_size))
    watch("replace", lambda source, target: ("rename", Path(source).parent == path.parent, Path(target) == path))
    tg.save({"a": tg.ones(100)}, path)
    assert calls[0] == ("file", path.stat().st_size), "all of it is there when it is flushed"
    assert calls[1] == ("rename", True, True)
    assert [call[0] for call in calls] in (["file", "rename", "folder"], ["file", "rename"])


@pytest.mark.parametrize("name", ["fsync", "replace", "chmod", "fdopen"])
@pytest.mark.parametrize(
    "trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
@pytest.mark.parametrize("old", [None, b"old"])
def test_trouble_while_writing_leaves_the_old_file_and_nothing_else(name, trouble, old, path, monkeypatch):
    if old is not None:
        path.write_bytes(old)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}

    def fail(descriptor, *rest):
        if name == "fdopen":
            os.close(descriptor)
        raise trouble

    monkeypatch.setattr(os, name, fail)
    expected = KeyboardInterrupt if isinstance(trouble, KeyboardInterrupt) else FileError
    with pytest.raises(expected) as caught:
        tg.save({"a": tg.ones(3)}, path)
    assert expected is KeyboardInterrupt or "state.safetensors: No space left" in str(caught.value)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_folder_that_cannot_be_flushed_does_not_undo_a_written_file(path, monkeypatch):
    real = os.fsync

    def fsync(fd):
        if os.path.isdir(f"/dev/fd/{fd}"):
            raise OSError(22, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    tg.save({"a": tg.ones(3)}, path)
    same(tg.load(path)[0], {"a": np.ones(3, np.float32)})


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for target, says in [("folder", "directory"), ("nowhere/x", "No such file"), ("file/x", "[Nn]ot a directory")]:
        with pytest.raises(FileError, match=says) as caught:
            tg.save({"a": tg.ones(3)}, tmp_path / target)
        assert str(tmp_path / target) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_saving_over_a_file_and_relative_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in (5, 2):
        tg.save({"a": tg.ones(n)}, "x")
        assert tg.load("x")[0]["a"].shape == (n,)
    assert os.listdir() == ["x"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert os.stat("x").st_mode & 0o777 == 0o666 & ~mask, "readable like any other new file"
