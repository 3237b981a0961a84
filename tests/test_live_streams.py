"""Streams cut anywhere give what the whole file gives; what cannot be read is said."""

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, InUseError, NotEventsError
from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.formats.headers import header_lines, is_whole
from scaleevent.formats.source import RawBlock
from scaleevent.live.evt_stream import GARBAGE_WORDS, EvtStream
from scaleevent.live.order import LATE, OFF_SENSOR, RESET_EVENTS, STRAY, WRONG, Order
from scaleevent.live.pipes import Silence, follow_file, read_pipe, standard_input
from scaleevent.live.source import EvtSource, UdpSource, open_live
from scaleevent.live.udp import BAD_PACKETS, Packets, parse_address
from scaleevent.prediction.cutting import Quiet
from tests.event_files import evt2_words, evt3_words, evt21_words, some_events, write_raw
from tests.live_sources import FakeTimer, aestream_packets, faery_packets, joined, pieces

REAL = os.environ.get("SCALEEVENT_TEST_DATA")
needs_real = pytest.mark.skipif(
    not REAL, reason="SCALEEVENT_TEST_DATA is not set: real recordings are not checked"
)


def swapped(words):
    return words << np.uint64(32) | words >> np.uint64(32)


STREAMS = {
    "EVT2": (evt2_words, 2**34 - 20_000, "evt 2.0"),
    "EVT2.1": (evt21_words, 2**34 - 20_000, "evt 2.1"),
    "EVT2.1 legacy": (lambda e: swapped(evt21_words(e)), 2**34 - 20_000, "evt 2.1;legacy"),
    "EVT3": (evt3_words, 2**24 - 20_000, "evt 3.0"),
}


def written(folder: Path, kind: str, number: int = 3000, noise: int = 0) -> Path:
    """A RAW file whose clock wraps, with some words at random places that are no events."""
    make, start, version = STREAMS[kind]
    words = make(some_events(number, start_us=start))
    if noise:
        rng = np.random.default_rng(1)
        at = rng.integers(0, len(words), noise)
        words = np.insert(words, at, rng.integers(0, np.iinfo(words.dtype).max, noise, words.dtype))
    version, *legacy = version.split(";")
    header = [version, *(f"endianness {each}" for each in legacy), "geometry 240x180", "end"]
    return write_raw(folder / "a.raw", words, *header)


def live(chunks, **options) -> EvtSource:
    return EvtSource("a camera", iter(chunks), Silence(FakeTimer(), 1), **options)


def delivered(source) -> list[tuple[int, int, int, int]]:
    """The events of all blocks, which come in order of time within a stretch."""
    blocks = [block for block in source if not isinstance(block, Quiet)]
    for block in blocks:
        Events(block.t, block.x, block.y, block.p, block.height, block.width)  # checks itself
    return [
        row for b in blocks for row in zip(*(getattr(b, n).tolist() for n in "txyp"), strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0, 40])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_cut_anywhere_is_decoded_as_the_whole_file(tmp_path, kind, noise, seed):
    path = written(tmp_path, kind, noise=noise)
    path.write_bytes(path.read_bytes()[: -1 if noise else None])  # and half a word
    whole = joined(open_recording(path, max_bad=1).source.blocks(None, None))
    assert whole["t"] and (noise == 0) == (whole["flaws"] == {})
    stream, found = EvtStream("a camera"), []
    for piece in pieces(path.read_bytes(), np.random.default_rng(seed), 10 ** (seed + 1)):
        found += stream.push(piece)
    assert joined([*found, *stream.finish()]) == whole


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_single_bytes_is_decoded_as_the_whole_file(tmp_path, kind):
    path = written(tmp_path, kind, 200)
    data = path.read_bytes()
    stream = EvtStream("a camera")
    found = [block for at in range(len(data)) for block in stream.push(data[at : at + 1])]
    whole = joined(open_recording(path).source.blocks(None, None))
    assert joined([*found, *stream.finish()]) == whole


@needs_real
@pytest.mark.parametrize("name", ["evt2_sample.raw", "evt3_sample.raw"])
def test_a_real_recording_comes_through_a_pipe_as_from_its_file(name):
    path = Path(REAL) / "events" / "expelliarmus" / name
    recording = open_recording(path)
    whole = Events.concatenate(recording.blocks(), recording.height, recording.width)
    source = live(pieces(path.read_bytes(), np.random.default_rng(0), 5000),
                  size=(recording.height, recording.width))  # fmt: skip
    blocks = [block for block in source if not isinstance(block, Quiet)]
    found = Events.concatenate(blocks, recording.height, recording.width)
    for column in "txyp":
        assert np.array_equal(getattr(found, column), getattr(whole, column))
    assert source.order.counts.dropped == recording.counts.dropped


def test_bare_words_need_their_format_and_size(tmp_path):
    events = some_events(100)
    data = evt3_words(events).tobytes()
    with pytest.raises(NotEventsError, match="does not begin as a RAW"):
        live([data])
    with pytest.raises(ConfigError, match="how large its sensor"):
        live([data], encoding="EVT3")
    assert len(delivered(live([data], encoding="EVT3", size=(180, 240)))) == 100
    with pytest.raises(ConfigError, match="another format than given"):
        live([b"% evt 2.0\n% end\n", data], encoding="EVT3")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"% ", b"%", b"evt 3.0", b"\n", b"end", b"\x00", b"a", b" "])))
def test_a_whole_header_stays_as_it_is_whatever_follows(parts):
    data = b"".join(parts)
    for end in range(len(data)):
        if is_whole(data[:end], b"% "):
            assert header_lines(data[:end], b"% ") == header_lines(data, b"% ")
            break


def test_garbage_is_refused_and_some_damage_is_counted():
    rng = np.random.default_rng(0)
    garbage = rng.integers(0, 256, 4 * GARBAGE_WORDS, np.uint8).tobytes()
    for encoding in ("EVT2", "EVT3"):
        with pytest.raises(DataError, match=f"the stream is not {encoding}"):
            list(live([garbage], encoding=encoding, size=(720, 1280)))
    words = np.insert(evt3_words(some_events(2000)), [500, 900], 0x1000)
    source = live([words.tobytes()[:-1]], encoding="EVT3", size=(180, 240))
    assert len(delivered(source)) >= 1990
    assert source.order.counts.flaws["unknown words"].count == 2
    assert [line.split(":")[0] for line in source.told()] == ["unknown words", "truncated stream"]


def test_a_byte_lost_on_the_way_is_noticed():
    data = evt3_words(some_events(40_000)).tobytes()
    with pytest.raises(DataError, match="unknown among"):
        list(live([data[:20_001], data[20_002:]], encoding="EVT3", size=(180, 240)))


# -- the order of time


def slow_order(rows, height, width):
    """Events that have a place, a stretch each; what is left out, by reason."""
    stretches, left = [[]], {OFF_SENSOR: 0, LATE: 0, WRONG: 0}
    clock, row = None, []
    for t, x, y, p in rows:
        if not (x < width and y < height):
            left[OFF_SENSOR] += 1
        elif clock is None or 0 <= t - clock <= 86400 * 10**6:
            stretches[-1].append((t, x, y, p))
            clock, row = t, []
        elif 0 < clock - t <= 50_000:
            left[LATE] += 1
            row = []
        else:
            if row and not -50_000 <= t - row[-1] <= 86400 * 10**6:
                row = row[STRAY:] or [t]
            else:
                row.append(t)
            if len(row) == RESET_EVENTS:
                stretches.append([(t, x, y, p)])
                clock, row = t, []
            else:
                left[WRONG] += 1
    return [s for s in stretches if s], {k: v for k, v in left.items() if v}


@pytest.mark.parametrize("seed", range(6))
def test_order_follows_its_rule_however_the_stream_is_cut(seed):
    rng = np.random.default_rng(seed)
    number = 4000
    t = 10**7 + np.cumsum(rng.integers(0, 200, number))
    t[rng.integers(0, number, 30)] -= rng.integers(1, 10**5, 30)  # late, or wrong
    t[rng.integers(0, number, 30)] -= rng.integers(1, 10**6, 30)
    t[rng.integers(0, number, 5)] += 10**12
    if seed % 2:
        t[2500:] -= 9 * 10**6  # a reset
    x, y = rng.integers(0, 66, number), rng.integers(0, 49, number)
    p = rng.integers(0, 2, number).astype(np.uint8)
    rows = list(zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True))
    stretches, left = slow_order(rows, 48, 64)
    assert len(left) == 3 and len(stretches) == 1 + seed % 2
    for cuts in (np.arange(1, number), np.sort(rng.integers(0, number, 30)), []):
        order, found = Order(48, 64), []
        for part in np.split(np.arange(number), cuts):
            block = RawBlock(
                0, t[part], x[part].astype(np.uint16), y[part].astype(np.uint16), p[part]
            )
            for events in order.add(block):
                later = found and found[-1][-1][0] <= events.t[0]
                rows = list(zip(*(getattr(events, n).tolist() for n in "txyp"), strict=True))
                found[-1].extend(rows) if later else found.append(rows)
        assert found == stretches
        assert dict(order.counts.dropped) == left
        assert order.counts.kept + sum(left.values()) == order.counts.decoded == number
        assert len(order.counts.segments) == len(stretches)


@pytest.mark.parametrize(("between", "resets"), [(None, 1), (10**7 - 1000, 0), (5, 1)])
def test_an_event_that_agrees_with_the_clock_keeps_it(between, resets):
    """Half of what resets a clock, an event, and the other half: it agrees, or with neither."""
    back = np.arange(RESET_EVENTS // 2) + 10**6
    extra = [] if between is None else [between]
    more = np.arange(STRAY if between == 5 else 0) + 2 * 10**6
    t = np.concatenate([[10**7], back, extra, back + 10**5, more]).astype(np.int64)
    zeros = np.zeros(len(t), np.uint16)
    order = Order(48, 64)
    list(order.add(RawBlock(0, t, zeros, zeros, zeros.astype(np.uint8))))
    assert len(order.counts.segments) == 1 + resets


def test_time_words_without_events_say_that_time_passes():
    events = some_events(10, start_us=64 * 1000, span_us=60)
    words = [*evt2_words(events).tolist(), 0x8000_0000 + 2000, 0x8000_0000 + 10**7]
    source = live([np.array([word], "<u4").tobytes() for word in words], encoding="EVT2",
                  size=(180, 240))  # fmt: skip
    quiet = [block.until_us for block in source if isinstance(block, Quiet)]
    assert quiet == [64 * 2000]  # the last word jumps too far to be believed


# -- pipes and files


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with pytest.MonkeyPatch.context():
            try:
                os.close(descriptor)
            except OSError:
                pass


def test_a_pipe_is_read_until_it_is_closed(tmp_path, pipe):
    data = written(tmp_path, "EVT3").read_bytes()

    def send():
        for piece in pieces(data, np.random.default_rng(0), 700):
            os.write(pipe[1], piece)
        os.close(pipe[1])

    sender = threading.Thread(target=send)
    sender.start()
    silence = Silence(FakeTimer(), 1)
    source = EvtSource("a pipe", read_pipe(pipe[0], silence, "a pipe"), silence)
    found = delivered(source)
    sender.join()
    recording = open_recording(tmp_path / "a.raw")
    assert found == delivered(recording.blocks())
    assert (source.height, source.width, source.told()) == (180, 240, [])


class Ticking(FakeTimer):
    """A second passes whenever the time is asked for."""

    def now(self) -> float:
        self.time += 1
        return self.time


def test_a_silent_pipe_ends(pipe, monkeypatch):
    monkeypatch.setattr("scaleevent.live.pipes.WAIT_SECONDS", 0.001)
    silence = Silence(Ticking(), 5)
    with pytest.raises(EnvironmentProblem, match="nothing came") as told:
        EvtSource("a pipe", read_pipe(pipe[0], silence, "a pipe"), silence)
    assert told.value.found == "silence for 5 s"
    os.write(pipe[1], b"% evt 3.0\n% geometry 240x180\n% end\n")
    os.write(pipe[1], evt3_words(some_events(50)).tobytes())
    silence = Silence(Ticking(), 5)
    source = EvtSource("a pipe", read_pipe(pipe[0], silence, "a pipe"), silence)
    assert len(delivered(source)) == 50
    assert source.told() == ["ended because nothing came for 5 s"]


def test_a_pipe_that_closes_without_an_event_says_so():
    with pytest.raises(NotEventsError, match="does not begin") as told:
        live([])
    assert told.value.found == "nothing"
    with pytest.raises(DataError, match="no event came"):
        list(live([b"% evt 3.0\n% geometry 240x180\n% end\n"]))


class Growing(FakeTimer):
    """Appends the next piece to a file at every second sleep."""

    def __init__(self, path, parts):
        super().__init__()
        self.path, self.parts = path, list(parts)

    def sleep(self, seconds):
        super().sleep(seconds)
        if self.parts and len(self.slept) % 2:
            with self.path.open("ab") as file:
                file.write(self.parts.pop(0))


def test_a_growing_file_gives_what_the_finished_one_does(tmp_path):
    data = written(tmp_path, "EVT3").read_bytes()
    path = tmp_path / "growing.raw"
    path.touch()
    timer = Growing(path, pieces(data, np.random.default_rng(0), 2000))
    source = open_live(str(path), idle_s=2, timer=timer)
    assert timer.parts and (source.height, source.width) == (180, 240)
    found = delivered(source)
    assert found == delivered(open_recording(tmp_path / "a.raw").blocks())
    assert not timer.parts and source.told() == ["ended because nothing came for 2 s"]


def test_files_that_cannot_be_followed(tmp_path):
    with pytest.raises(DataError, match="file not found"):
        open_live(str(tmp_path / "none.raw"))
    with pytest.raises(DataError, match="a folder where"):
        open_live(str(tmp_path))
    np.savez(tmp_path / "a.npz", t=np.arange(3))
    with pytest.raises(DataError, match="cannot be read while the file grows"):
        open_live(str(tmp_path / "a.npz"))
    (tmp_path / "empty.raw").touch()
    with pytest.raises(EnvironmentProblem, match="nothing came"):
        open_live(str(tmp_path / "empty.raw"), idle_s=3, timer=FakeTimer())
    path = written(tmp_path, "EVT2")
    chunks = follow_file(path, Silence(FakeTimer(), 1))
    next(chunks)
    path.write_bytes(b"% ")
    with pytest.raises(DataError, match="has become shorter"):
        next(chunks)


def test_a_terminal_is_no_stream(monkeypatch):
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as opened:
        monkeypatch.setattr("sys.stdin", opened)
        with pytest.raises(ConfigError, match="is a terminal"):
            standard_input()
    os.close(controller)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="is closed"):
        open_live("-")


# -- UDP


def send(address, packets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(packet, address)


def udp(encoding, size=(180, 240), timer=None, seconds=4.0) -> UdpSource:
    """A source at a free port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    silence = Silence(timer or Ticking(), seconds)
    return UdpSource(f"udp://127.0.0.1:{port}", encoding, size, silence)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr("scaleevent.live.udp.WAIT_SECONDS", 0.02)


def in_memory(events: Events) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


@pytest.mark.parametrize("encoding", ["t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"])
def test_events_with_times_come_through_the_network_as_they_are(encoding):
    events = some_events(5000, start_us=2**32 - 20_000)  # 32 bits wrap
    stamped = encoding == "aestream"
    packets = aestream_packets(events, True) if stamped else faery_packets(events, encoding)
    source = udp(encoding)
    send(("127.0.0.1", source.port), packets)
    found = delivered(source)
    assert found == in_memory(events)
    counts = source.order.counts
    repeated = len(packets[-1]) // 8 - 5000 % 32 if stamped else 0
    assert sum(counts.dropped.values()) <= repeated and set(counts.dropped) <= {LATE}
    assert f"{len(packets)} packets came" in source.told()[0]


def test_events_without_times_get_those_of_their_arrival():
    events = some_events(300)
    packets = aestream_packets(events, False)
    assert [len(packet) for packet in packets] == [512, 512, 44 * 4]
    decoder = Packets("aestream", 180, 240, "here")
    blocks = [
        block for at, packet in enumerate(packets) for block in decoder.decode([packet], 7 * at)
    ]
    assert [set(block.t.tolist()) for block in blocks] == [{0}, {7}, {14}]
    for name in "xyp":
        found = np.concatenate([getattr(block, name) for block in blocks])
        assert np.array_equal(found, getattr(events, name))
    source = udp("aestream")
    send(("127.0.0.1", source.port), packets)
    blocks = list(source)
    assert [row[1:] for b in blocks if not isinstance(b, Quiet) for row in in_memory(b)] == [
        row[1:] for row in in_memory(events)
    ]
    assert any(isinstance(block, Quiet) for block in blocks)  # time passes without packets
    assert "the packets hold no times" in source.told()[1]


def test_one_event_of_aestreams_own_test():
    """aestream/aestream:src/python/test/test_udp.py sends these bytes and sees [218, 15]."""
    [block] = Packets("aestream", 480, 640, "here").decode([b"\x0f\x00\xda\x80"], 5)
    assert (block.t[0], block.x[0], block.y[0], block.p[0]) == (5, 218, 15, 0)


@pytest.mark.parametrize("encoding", ["t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"])
def test_packets_decoded_together_are_those_decoded_alone(encoding):
    rng = np.random.default_rng(0)
    packets = []
    for at in range(60):
        events = some_events(40, start_us=at * 1000, span_us=900, seed=at)
        [packet, *_] = (
            aestream_packets(events, True) if encoding == "aestream"
            else faery_packets(events, encoding)
        )  # fmt: skip
        packets.append(packet)
    for at in (5, 6, 17, 40):
        packets[at] = packets[at][: int(rng.integers(0, len(packets[at])))]
    packets[30] = rng.integers(0, 256, 520, np.uint8).tobytes()
    alone, together = (Packets(encoding, 180, 240, "here") for _ in range(2))
    one = joined(block for packet in packets for block in alone.decode([packet], 0))
    many = joined(
        block for at in range(0, 60, 7) for block in together.decode(packets[at : at + 7], 0)
    )
    assert one == many
    assert (alone.packets, alone.malformed) == (together.packets, together.malformed)
    assert alone.malformed


def test_packets_that_come_too_late_are_left_out_and_counted():
    events = some_events(1000)
    packets = faery_packets(events, "t64_x16_y16_on8")
    packets[3], packets[4] = packets[4], packets[3]
    source = udp("t64_x16_y16_on8")
    send(("127.0.0.1", source.port), packets)
    delivered(source)
    counts = source.order.counts
    assert counts.decoded == 1000 and 95 <= counts.dropped[LATE] <= 100


@pytest.mark.parametrize("sent", ["t32_x16_y15_on1", "aestream", "text", "t64_x16_y16_on8"])
def test_packets_of_another_format_are_told(sent):
    events = some_events(5000)
    packets = {
        "text": [b"hello, world"] * 40,
        "aestream": aestream_packets(events, False),
        "t64_x16_y16_on8": faery_packets(some_events(5000, 900, 1600), sent),
    }.get(sent) or faery_packets(events, sent)
    source = udp("t64_x16_y16_on8", size=(20, 20) if sent == "t64_x16_y16_on8" else (180, 240))
    assert len(packets) >= BAD_PACKETS
    send(("127.0.0.1", source.port), packets)
    with pytest.raises(DataError, match="the packets are not t64") as told:
        list(source)
    assert str(len(packets[0])) in told.value.found


def test_few_packets_of_another_format_are_told_at_the_end():
    source = udp("aestream")
    send(("127.0.0.1", source.port), [b"abc"] * 3)
    with pytest.raises(DataError, match="the packets are not aestream"):
        list(source)


def test_a_port_without_packets_is_silent_and_one_in_use_is_told():
    source = udp("aestream")
    with pytest.raises(InUseError, match="another program listens"):
        open_live(source.name, size=(180, 240))
    with pytest.raises(EnvironmentProblem, match="nothing came"):
        list(source)
    with pytest.raises(EnvironmentProblem, match="cannot listen there"):
        open_live("udp://192.0.2.1:7777", size=(180, 240))


@pytest.mark.parametrize(
    "address", ["tcp://h:1", "udp://", "udp://h", "udp://h:x", "udp://h:99999", "udp://h:1/a"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ConfigError):
        open_live(address, size=(180, 240))


def test_formats_belong_to_their_sources(tmp_path):
    with pytest.raises(ConfigError, match="not a format of UDP"):
        open_live("udp://127.0.0.1:7777", encoding="EVT3", size=(180, 240))
    with pytest.raises(ConfigError, match="packets do not say"):
        open_live("udp://127.0.0.1:7777")
    with pytest.raises(ConfigError, match="not a format of streams"):
        open_live(str(tmp_path / "a.raw"), encoding="aestream")
    assert parse_address("udp://[::1]:80") == ("::1", 80)
