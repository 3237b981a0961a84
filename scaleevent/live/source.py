"""Where live events come from: an iterator of blocks of `Events` on a sensor of known size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from scaleevent.config.live import STANDARD_INPUT
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.events import Events
from scaleevent.formats import recording_kind
from scaleevent.formats.clock import DAY_US
from scaleevent.formats.prophesee import ENCODINGS
from scaleevent.formats.source import RawBlock
from scaleevent.live.evt_stream import EvtStream
from scaleevent.live.order import Order
from scaleevent.live.pace import SystemTimer, Timer
from scaleevent.live.pipes import Silence, follow_file, read_pipe, standard_input
from scaleevent.live.udp import PACKET_FORMATS, Packets, listen, parse_address, receive
from scaleevent.prediction.cutting import Quiet

IDLE_SECONDS = 30.0


class LiveSource(ABC):
    """Events as they arrive; iterating gives blocks, and `Quiet` where time passes without any.

    A block that begins earlier than the one before it ends follows a reset of the camera's clock.

    Args:
        name: What the source is called in messages.
        encoding: Its format.
        order: Where events that have no place in the order of time are sorted out.
        silence: When to stop waiting.

    Attributes:
        height: Sensor rows.
        width: Sensor columns.
    """

    _leap_us = DAY_US  # a time further ahead is not believed before an event has it

    def __init__(self, name: str, encoding: str, order: Order, silence: Silence) -> None:
        self.name, self.encoding = name, encoding
        self.order, self.silence = order, silence
        self.height, self.width = order.height, order.width

    def __iter__(self) -> Iterator[Events | Quiet]:
        """The blocks; once.

        Raises:
            DataError: The source sends something else, or ended without an event.
            EnvironmentProblem: It cannot be read any more.
        """
        self.silence.broken()  # it may have been opened long ago
        for blocks, time_us in self._arrivals():
            for block in blocks:
                yield from self.order.add(block)
            known = self.order.time_us
            if known is not None and time_us is not None and 0 < time_us - known <= self._leap_us:
                self.order.pass_to(time_us)
                yield Quiet(time_us)
        if not self.order.counts.kept and (self.silence.ended or not self.silence.over()):
            raise self._nothing()

    @property
    def choices(self) -> tuple[str, ...]:
        """What was understood, a line each, for commands."""
        sensor = f"{self.width}x{self.height} pixels"
        return (f"{self.name}: {self.encoding}, {sensor}; ends after {self.silence.seconds:g} s "
                "of silence (--idle), or with Ctrl-C",)  # fmt: skip

    @abstractmethod
    def _arrivals(self) -> Iterator[tuple[list[RawBlock], int | None]]:
        """Raw blocks as they come, and a time before which none will come any more."""

    def _nothing(self) -> DataError:
        counts = self.order.counts
        found = "; ".join(f"{count:,} {reason}" for reason, count in counts.dropped.items())
        return DataError(
            "no event came that can be used",
            where=self.name,
            found=found or "no event at all",
            expected=f"{self.encoding} events on {self.width}x{self.height} pixels",
            hint="is the sensor another (--size)?" if found else "does the camera see anything?",
        )

    def told(self) -> list[str]:
        """What happened, in sentences for a report; complete after the last block."""
        counts = self.order.counts
        said = []
        if self.silence.ended:
            said.append(f"ended because nothing came for {self.silence.seconds:g} s")
        if counts.dropped:
            reasons = (f"{count:,} {reason}" for reason, count in counts.dropped.items())
            said.append(f"events left out: {', '.join(reasons)}")
        for flaw in counts.flaws.values():
            said.append(f"{flaw.what}: {flaw.count or 1:,}, the first at {flaw.where}")
        if len(counts.segments) > 1:
            said.append(f"the camera's clock began anew {len(counts.segments) - 1:,} times")
        return said


class EvtSource(LiveSource):
    """EVT2, EVT2.1 or EVT3 words from a pipe or a growing file.

    Waits for the header, which says how large the sensor is.

    Args:
        name: What the source is called in messages.
        chunks: Its bytes as they arrive.
        silence: When to stop waiting.
        encoding: Its format, where it has no header.
        size: (height, width) of the sensor, instead of what the header says.

    Raises:
        NotEventsError: It sends something else.
        DataError: Its header is broken.
        ConfigError: The sensor's size is not known, or the header contradicts the encoding.
        EnvironmentProblem: Nothing came.
    """

    _leap_us = 1_000_000  # a time word may be damaged

    def __init__(
        self, name: str, chunks: Iterator[bytes], silence: Silence, encoding: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self._stream, self._chunks = EvtStream(name, encoding), chunks
        self._begun: list[RawBlock] = []
        self._broken: DataError | None = None  # what came after these
        for data in chunks:
            try:
                for block in self._stream.push(data):
                    self._begun.append(block)
            except DataError as error:
                if not self._begun:
                    raise
                self._broken = error
            if self._stream.layout is not None:
                break
        else:
            if silence.ended and not self._stream.received:
                raise nothing_came(name, silence, "does the program that sends run?")
            self._begun += self._stream.finish()
        layout = self._stream.layout
        assert layout is not None  # else an error was raised
        size = size or layout.size
        if size is None:
            raise ConfigError(
                "a stream must say how large its sensor is",
                where=name,
                found="no size in its header" if layout.header else "no header",
                expected="the sensor's rows x columns",
                hint="such as --size 720x1280",
            )
        super().__init__(name, layout.encoding, Order(*size), silence)

    def _arrivals(self) -> Iterator[tuple[list[RawBlock], int | None]]:
        yield self._begun, self._stream.time_us
        self._begun = []
        if self._broken is not None:
            raise self._broken
        for data in self._chunks:
            for block in self._stream.push(data):  # what came before garbage counts
                yield [block], self._stream.time_us
        yield list(self._stream.finish()), None


class UdpSource(LiveSource):
    """Events in UDP packets.

    Args:
        address: udp://HOST:PORT, of this machine.
        encoding: One of `PACKET_FORMATS`.
        size: (height, width) of the sensor.
        silence: When to stop waiting.

    Raises:
        ConfigError: The address or format is none.
        InUseError: The port belongs to another program.
        EnvironmentProblem: The machine has no such address.
    """

    def __init__(
        self, address: str, encoding: str, size: tuple[int, int], silence: Silence
    ) -> None:
        self._packets = Packets(encoding, *size, name=address)
        self._socket = listen(*parse_address(address))
        super().__init__(address, encoding, Order(*size), silence)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def _arrivals(self) -> Iterator[tuple[list[RawBlock], int | None]]:
        packets = self._packets
        for blocks, arrived_us in receive(self._socket, packets, self.silence):
            yield blocks, arrived_us if packets.timeless else None
        if self.silence.ended and not packets.packets:
            hint = "does the sender run, and to this address and port? a firewall may be between"
            raise nothing_came(self.name, self.silence, hint)
        if self.silence.ended and sum(packets.malformed.values()) == packets.packets:
            raise packets.error()

    def told(self) -> list[str]:
        """What happened, in sentences for a report; complete after the last block."""
        packets = self._packets
        said = [f"{packets.packets:,} packets came; those lost on the way cannot be counted"]
        if packets.timeless:
            said.append("the packets hold no times: events have the time at which they arrived")
        if packets.overflowed:
            said.append(f"{packets.overflowed:,} packets came faster than this machine took them")
        for reason, count in packets.malformed.items():
            said.append(f"packets left out: {count:,} {reason}")
        return said + super().told()


def nothing_came(name: str, silence: Silence, hint: str) -> EnvironmentProblem:
    """That a source said nothing at all."""
    return EnvironmentProblem(
        "nothing came", where=name, found=f"silence for {silence.seconds:g} s",
        hint=f"{hint} (--idle waits longer)",
    )  # fmt: skip


def open_live(
    where: str,
    *,
    encoding: str | None = None,
    size: tuple[int, int] | None = None,
    idle_s: float = IDLE_SECONDS,
    timer: Timer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> LiveSource:
    """Open a live source; waits until it has said what it is.

    Args:
        where: `-` for standard input, udp://HOST:PORT, or a file that grows.
        encoding: EVT2, EVT2.1 or EVT3 of words without a header; of UDP packets one of
            `PACKET_FORMATS`, by default the first.
        size: (height, width) of the sensor; needed unless a header says it.
        idle_s: Seconds of silence after which the source has ended.
        timer: The clock by which that is measured.
        stop: Whether to end now; asked several times a second.

    Raises:
        ConfigError: No such address, format or size, or a terminal as standard input.
        DataError: The file is missing, or what comes is something else.
        EnvironmentProblem: Nothing comes, or the source cannot be read or listened to.

    Example:
        >>> from scaleevent.live.source import open_live
        >>> source = open_live("udp://127.0.0.1:0", size=(480, 640))  # port 0: any free one
        Traceback (most recent call last):
            ...
        scaleevent.errors.ConfigError: error[E200]: not an address to listen at
          found: udp://127.0.0.1:0
          expected: udp://HOST:PORT
          hint: such as udp://0.0.0.0:7777 for all senders
    """
    silence = Silence(timer or SystemTimer(), idle_s, stop)
    if "://" in where:
        parse_address(where)
        encoding = encoding or PACKET_FORMATS[0]
        if encoding not in PACKET_FORMATS:
            expected = ", ".join(PACKET_FORMATS)
            raise ConfigError(
                "not a format of UDP packets", where=where, found=encoding, expected=expected
            )
        if size is None:
            raise ConfigError(
                "packets do not say how large their sensor is",
                where=where,
                expected="the sensor's rows x columns",
                hint="such as --size 480x640",
            )
        return UdpSource(where, encoding, size, silence)
    if encoding is not None and encoding not in ENCODINGS:
        expected = ", ".join(ENCODINGS)
        raise ConfigError("not a format of streams", where=where, found=encoding, expected=expected)
    if where == STANDARD_INPUT:
        chunks = read_pipe(standard_input(), silence, "standard input")
        return EvtSource("standard input", chunks, silence, encoding, size)
    path = Path(where)
    refuse_other_formats(path)
    return EvtSource(where, follow_file(path, silence), silence, encoding, size)


def refuse_other_formats(path: Path) -> None:
    """Refuse to follow a file of a format that cannot be read while it grows.

    Raises:
        DataError: As said.
    """
    try:
        kind = recording_kind(path)
    except DataError:  # perhaps words without a header; the stream's decoder says what is wrong
        return
    if not kind.startswith("Prophesee RAW"):
        raise DataError(
            "this format cannot be read while the file grows",
            where=path,
            found=kind,
            expected=", ".join(ENCODINGS),
            hint="read it when it is finished, without --follow",
        )
