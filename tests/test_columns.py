"""Which column is what, in every container: told by name or order, by shared names, by all rows."""

from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats import open_recording, read_events
from scaleevent.formats.columns import column_order, find_columns, parse_columns
from tests.event_files import some_events
from tests.test_formats import assert_same

EVENTS = some_events(400)
SIZE = (180, 240)


def write_columns(folder: Path, columns: dict[str, np.ndarray]) -> list[Path]:
    """Named columns in everything that has names."""
    paths = [
        folder / name for name in ("a.npz", "b.npy", "c.h5", "d.h5", "e.mat", "f.mat", "g.csv")
    ]
    table = np.empty(len(columns["other"]), [(name, "<i8") for name in columns])
    for name, column in columns.items():
        table[name] = column
    np.savez(paths[0], **columns)
    np.save(paths[1], table)
    with h5py.File(paths[2], "w") as file:
        for name, column in columns.items():
            file[f"raw/{name}"] = column
    with h5py.File(paths[3], "w") as file:
        file["raw"] = table
    savemat(paths[4], columns)
    savemat(paths[5], {"raw": columns})
    rows = np.stack([*columns.values()], axis=1)
    np.savetxt(paths[6], rows, "%d", delimiter=",", header=",".join(columns), comments="")
    return paths


def named(**names: str) -> dict[str, np.ndarray]:
    columns = {"other": np.arange(len(EVENTS))}
    return columns | {name: getattr(EVENTS, key).astype(int) for key, name in names.items()}


def test_names_can_be_told(tmp_path):
    names = {"t": "Stamp", "x": "col", "y": "row", "p": "sign"}
    for path in write_columns(tmp_path, named(**names)):
        with pytest.raises(NotEventsError):
            open_recording(path, size=SIZE)
        told = "t=Stamp x=col y=row p=sign"
        assert_same(read_events(path, size=SIZE, columns=told), EVENTS)
        with pytest.raises(ConfigError, match="no columns of these names") as caught:
            open_recording(path, size=SIZE, columns="t=Stamp x=col y=Row p=sign")
        assert "sign" in caught.value.found and "Row (y)" in caught.value.expected
        facts = info.run(InfoConfig(path=path, size=SIZE, columns=told)).facts
        assert facts["events"] == 400


@pytest.mark.parametrize("form", ["events_{}", "{}_events", "ev_{}", "event_{}", "left_ev_{}"])
@pytest.mark.parametrize(
    "names", ["txyp", ("ts", "xs", "ys", "polarity"), ("time", "x", "y", "on")]
)
def test_names_may_share_what_is_no_column(tmp_path, form, names):
    names = dict(zip("txyp", map(form.format, names), strict=True))
    for path in write_columns(tmp_path, named(**names)):
        assert_same(read_events(path, size=SIZE), EVENTS)


def test_shared_names_are_unambiguous():
    two = [f"{side}_{key}" for side in ("left", "right") for key in "txyp"]
    assert find_columns(two) is None
    assert find_columns([*two, *"txyp"]) == {key: key for key in "txyp"}
    assert find_columns(["left_t", "right_x", "left_y", "left_p"]) is None
    assert find_columns(["t", "ts", "x", "y", "p"]) is None
    assert find_columns(["TimeStamp", "X", "Y", "Pol"])["t"] == "TimeStamp"
    assert find_columns(["t_offset", "x", "y", "p"]) is None
    assert find_columns(["timestamps_ns", "x", "y", "p"])["t"] == "timestamps_ns"


NONSENSE = ["", "txy", "txyy", "txypp", "t x y q", "t=a x=b y=c", "t=a x=a y=b p=c",
            "t=a,x=b,y=c,p=", "t=a x=b y=c p=d q=e", "txyp" + "-" * 13, "'", "x=1"]  # fmt: skip


@pytest.mark.parametrize("columns", NONSENSE)
def test_nonsense_is_refused(tmp_path, columns):
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="order of four columns.*names"):
        open_recording(tmp_path / "a.npy", columns=columns)


def test_what_can_be_said_of_columns():
    for order in permutations("txyp--"):
        assert parse_columns(" ".join(order)) == parse_columns("".join(order)) == "".join(order)
    assert parse_columns("p=d, t='a b' y=c x=b") == {"t": "a b", "x": "b", "y": "c", "p": "d"}


def write_tables(folder: Path, table: np.ndarray) -> list[Path]:
    """A matrix in everything that holds one, in both memory orders."""
    paths = [
        folder / name for name in ("a.npy", "b.npy", "c.npz", "d.mat", "e.h5", "f.h5", "g.txt")
    ]
    np.save(paths[0], table)
    np.save(paths[1], np.asfortranarray(table))
    np.savez_compressed(paths[2], K=np.eye(3), events=table)
    savemat(paths[3], {"events": table})
    for path, stored in ((paths[4], table), (paths[5], table.T)):
        with h5py.File(path, "w") as file:
            file["events"] = stored
    np.savetxt(paths[6], table, "%d")
    return paths


@pytest.mark.parametrize("order", ["txyp-", "-xytp", "p-t-xy"])
def test_a_wider_table_with_its_order(tmp_path, order):
    columns = [getattr(EVENTS, key) if key != "-" else np.full(400, 9) for key in order]
    for path in write_tables(tmp_path, np.stack(columns, axis=1).astype(np.int64)):
        with pytest.raises(DataError):
            open_recording(path, size=SIZE)
        assert_same(read_events(path, size=SIZE, columns=" ".join(order)), EVENTS)
        with pytest.raises((ConfigError, NotEventsError)):
            open_recording(path, size=SIZE, columns=order + "-")


@pytest.mark.parametrize("order", ["txyp", "xytp", "xypt", "pxyt"])
def test_the_whole_table_decides_the_order(tmp_path, order):
    """In the first 70,000 rows everything is 0 or 1, or rises."""
    k = np.arange(80_000)
    late = k >= 70_000
    rng = np.random.default_rng(0)
    columns = {
        "t": k,
        "x": np.where(late, rng.integers(0, 240, len(k)), k % 2),
        "y": np.where(late, rng.integers(0, 180, len(k)), 1),
        "p": np.where(late, k // 2 % 2, 1),
    }
    table = np.stack([columns[key] for key in order], axis=1)
    for path in write_tables(tmp_path, table):
        events = read_events(path, size=SIZE)
        for key in "txyp":
            assert (getattr(events, key) == columns[key]).all()
    for path in write_tables(tmp_path, table[:70_000]):
        with pytest.raises(DataError, match="orders .* would fit"):
            open_recording(path, size=SIZE)


def test_no_more_is_read_than_decides():
    read = []

    def more():
        for at in range(3):
            read.append(at)
            yield table[at * 1000 : at * 1000 + 1000]

    k = np.arange(3000)
    table = np.stack([k * 10, k % 5, k * 37 % 90, k % 2], axis=1)
    table[:1000, 1:] = 1
    assert column_order(table[:1000], None, "", more()) == "txyp"
    assert read == [0, 1]
