#!/usr/bin/env python3
"""Reads a deaddrop log at rest. Written from docs/format.md alone, with Python's standard library.

    deaddrop_reader.py DIR [TOPIC]

prints one JSON object a line: for each topic its settings and epochs; each record, with the first offset
of its batch; each range of offsets that is lost, and why; the end; then what its indexes, offset files and
group files hold. Bytes are in base64. It opens nothing for writing and takes no locks, so it is right about
a log that no process has open.
"""

import base64
import json
import os
import re
import struct
import sys
import zlib

VERSION = 1
OFFSET_MAX = 1 << 62
PAGE = 4096
SECTOR = 512
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
SEGMENT_NAME = re.compile(r"([0-9]{20})\.seg")
FIRST_NAME = re.compile(r"([0-9]{20})\.first")


class Damaged(Exception):
    """A structure that does not keep the rules of the format."""


def u8(data, at):
    return data[at]


def u16(data, at):
    return struct.unpack_from("<H", data, at)[0]


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def base64_of(data):
    return base64.b64encode(data).decode("ascii")


def rotl(value, count):
    return ((value << count) | (value >> (32 - count))) & 0xFFFFFFFF


def seed(salt, position):
    low, high = salt & 0xFFFFFFFF, salt >> 32
    return low ^ rotl(high, 7) ^ rotl(position & 0xFFFFFFFF, 13)


def enveloped(data, magic, crc_at):
    """Checks the magic, the version and the checksum that the small structures have."""
    if len(data) < crc_at + 4 or data[:8] != magic:
        raise Damaged("the magic number is missing")
    if zlib.crc32(data[:crc_at]) != u32(data, crc_at):
        raise Damaged("the checksum is wrong")
    if u16(data, 8) != VERSION:
        raise Damaged("it is of version %d of the format" % u16(data, 8))
    return data


# Frames and segments


def fields_at(data, position):
    """The fields of the fixed part at this position, if a frame could have them; else None."""
    if position % 8 or position + 32 > len(data):
        return None
    fields = struct.unpack_from("<IIQQBBHI", data, position)
    _, length, offset, _, kind, flags, key_len, headers_len = fields
    if length < 32 or position + (length + 7 & ~7) > len(data) or kind not in (1, 2) or offset > OFFSET_MAX:
        return None
    if kind == 1:
        if length > 1 << 30 or flags & ~3 or (key_len and not flags & 1):
            return None
        if headers_len > 16 << 20 or 32 + key_len + headers_len > length:
            return None
    elif flags or key_len or headers_len:
        return None
    return fields


def frame_at(data, position, salt):
    """The valid frame at this position, or None."""
    fields = fields_at(data, position)
    if not fields:
        return None
    crc, length, offset, time, kind, flags, key_len, headers_len = fields
    end = position + (length + 7 & ~7)
    checked = data[position + 4 : end if kind == 1 else position + 32]
    if zlib.crc32(checked, seed(salt, position)) != crc:
        return None
    body = position + 32
    return {
        "position": position,
        "end": end,
        "offset": offset,
        "time": time,
        "void": kind == 2,
        "continues": bool(flags & 2),
        "key": data[body : body + key_len] if flags & 1 else None,
        "headers": data[body + key_len : body + key_len + headers_len],
        "payload": data[body + key_len + headers_len : position + length],
    }


def headers_of(data):
    """Names and values of a record's headers, in their order, up to the first that is none."""
    found, at = [], 0
    while at + 6 <= len(data):
        name_len, value_len = struct.unpack_from("<HI", data, at)
        value_at = at + 6 + name_len
        if value_at + value_len > len(data):
            break
        try:
            name = data[at + 6 : value_at].decode("utf-8")
        except UnicodeDecodeError:
            break
        found.append((name, data[value_at : value_at + value_len]))
        at = value_at + value_len
    return found


FIELDS = {
    1: ("kind", "number"), 2: ("client", "text"), 3: ("incarnation", "number"), 4: ("sequence", "number"),
    5: ("callback", "text"), 6: ("context", "bytes"), 7: ("deadline", "number"), 8: ("reply_topic", "text"),
    9: ("attempt", "number"), 10: ("error", "text"), 11: ("request_offset", "number"),
    12: ("conversation", "text"), 13: ("cause", "text"), 14: ("traceparent", "text"),
    15: ("begun_at", "number"), 16: ("handler_nanos", "number"), 17: ("redrive_of", "text"),
    18: ("reply_floor", "number"),
}
KINDS = {1: "request", 2: "reply", 3: "failed", 4: "dead-lettered", 5: "expired", 6: "cancelled", 7: "unparked",
         8: "redriven"}


def envelope_of(data):
    """The fields of the header `deaddrop.service`."""
    if data[:1] != b"\x01":
        raise Damaged("an envelope of an unknown version")
    found, at = {}, 1
    while at < len(data):
        if at + 5 > len(data) or at + 5 + u32(data, at + 1) > len(data):
            raise Damaged("a field that is cut short")
        value = data[at + 5 : at + 5 + u32(data, at + 1)]
        name, form = FIELDS.get(data[at], (None, None))
        at += 5 + len(value)
        if form == "number":
            if len(value) != 8:
                raise Damaged("a number of another length")
            found[name] = u64(value, 0)
        elif form:
            found[name] = base64_of(value) if form == "bytes" else value.decode("utf-8")
    found["kind"] = KINDS[found["kind"]]
    found["id"] = "%s-%016x-%d" % tuple(found.pop(part) for part in ("client", "incarnation", "sequence"))
    return found


def header_in(sector, base, topic_id):
    enveloped(sector, b"ddropSEG", 64)
    if u16(sector, 10) != 1 or u64(sector, 40) > u64(sector, 16):
        raise Damaged("fields that cannot be")
    if u64(sector, 16) != base or base > OFFSET_MAX:
        raise Damaged("the header is of another base")
    if u64(sector, 32) != topic_id:
        raise Damaged("the header is of another topic")
    return {"epoch": u32(sector, 12), "salt": u64(sector, 24), "durable_end": u64(sector, 40)}


def segment_header(data, base, topic_id):
    """The header; None if none ever reached the disk."""
    sectors = data[:SECTOR], data[7 * SECTOR : 8 * SECTOR]
    if not any(sectors[0]) and not any(sectors[1]):
        return None
    try:
        return header_in(sectors[0], base, topic_id)
    except Damaged as first:
        try:
            return header_in(sectors[1], base, topic_id)
        except Damaged:
            raise first from None


def checkpoint(data, salt):
    """The durable end in the newest checkpoint slot."""
    slots = (data[at : at + 24] for at in (512, 1024))
    valid = [struct.unpack("<QQ", slot[:16]) for slot in slots
             if len(slot) == 24 and u64(slot, 0) and zlib.crc32(slot[:16], seed(salt, 0)) == u32(slot, 16)]
    return max(valid, default=(0, 0))[1]


def most_records(data):
    """More record frames than this do not fit into the file of a segment."""
    return (len(data) - PAGE) // 32


def next_record(data, position, salt, offsets):
    """The first valid record frame from this position on with one of these offsets."""
    for at in range(position, len(data) - 31, 8):
        length, offset = struct.unpack_from("<IQ", data, at + 4)
        if length >= 32 and offset in offsets:
            frame = frame_at(data, at, salt)
            if frame and not frame["void"]:
                return frame
    return None


def has_unwritten_sector(data, start, end):
    """Whether bytes that a frame had look like those of a sector that never reached the disk."""
    if start >= end or not any(data[start : start + 8]):
        return True
    while start < end:
        stop = min((start // SECTOR + 1) * SECTOR, end)
        if not any(data[max(stop - 8, start) : stop]):
            return True
        start = stop
    return False


def end_of_frame(data, position):
    """Where a frame that is not valid ends, as far as its fields can be believed."""
    if position + 32 <= len(data) and fields_at(data, position):
        return position + (u32(data, position + 4) + 7 & ~7)
    end = len(data[position:].rstrip(b"\0")) + position
    return max(end + 7 & ~7, position + 32)


def is_rotten(data, position, salt, offsets, has_successor):
    """Whether the frame that is not valid at this position was whole once."""
    if position + 32 > len(data) or frame_at(data, position, salt):
        return False
    later = next_record(data, position + 8, salt, offsets)
    if later is None and not has_successor:
        return False
    end = later["position"] if later else end_of_frame(data, position)
    return not has_unwritten_sector(data, position, end)


def is_of(frame, expected, bound):
    """Whether a valid frame belongs to the log where the record `expected` is to be."""
    if frame["void"]:
        return frame["offset"] <= max(expected, bound)
    return frame["offset"] == expected


ENDS = object()


def frames_of(data, salt, base, limit, boundary, has_successor):
    """The frames of a segment, and the ranges (from, to, why) that are lost between them; ENDS where the log
    ends. `limit` is the next segment's base, or None. `has_successor`: its header is valid."""
    expected, position, whole = base, PAGE, base
    offsets = range(base, OFFSET_MAX + 1 if limit is None else limit)
    bound = base + (len(data) - PAGE) // 32 if limit is None else limit
    while limit is None or expected < limit:
        frame = frame_at(data, position, salt)
        if frame and not is_of(frame, expected, bound):
            frame = None
        if frame and frame["void"]:
            start, expected = expected, max(expected, frame["offset"])
            if expected > start:
                whole = expected
                yield (start, expected, "given up")
        elif frame:
            yield frame
            expected += 1
            if not frame["continues"]:
                whole = expected
        else:
            left = offsets[expected - base :]
            if whole >= boundary and not is_rotten(data, position, salt, left, has_successor):
                yield ENDS
                return
            frame = next_record(data, position + 8, salt, left)
            if frame is None:
                lost_to = max(boundary, expected) if limit is None else limit
                yield (expected, lost_to, "damaged")
                return
            if frame["offset"] > expected:
                yield (expected, frame["offset"], "damaged")
            expected = whole = frame["offset"]
            position = frame["position"]
            continue
        position = frame["end"]


class Topic:
    """One topic of a log."""

    def __init__(self, path):
        self.path = path
        settings = self.read("settings")
        if len(settings) != 64:
            raise Damaged("the settings have another length")
        enveloped(settings, b"ddropTOP", 56)
        self.id = u64(settings, 32)
        self.settings = {
            "durability": {0: "power-loss", 1: "within", 2: "process-crash"}[u8(settings, 10)],
            "interval_nanos": u64(settings, 16),
            "segment_len": u64(settings, 24),
            "retain_unconsumed": u8(settings, 11) != 0,
            "retain_age_nanos": u64(settings, 40),
            "retain_bytes": u64(settings, 48),
        }
        names = os.listdir(path)
        bases, firsts = (
            sorted(int(match[1]) for match in map(pattern.fullmatch, names) if match and int(match[1]) <= OFFSET_MAX)
            for pattern in (SEGMENT_NAME, FIRST_NAME)
        )
        # What is below the highest of these was dropped, if the segment that it names is there.
        first = firsts[-1] if firsts and firsts[-1] in bases else 0
        self.bases = [base for base in bases if base >= first]

    def read(self, *names):
        with open(os.path.join(self.path, *names), "rb") as file:
            return file.read()

    def names(self, directory):
        path = os.path.join(self.path, directory)
        found = os.listdir(path) if os.path.isdir(path) else []
        return sorted(name for name in found if NAME.fullmatch(name) and not name.endswith(".tmp"))

    def epochs(self):
        if not os.path.exists(os.path.join(self.path, "epochs")):
            return []
        data, found = self.read("epochs"), []
        for at in range(0, len(data) - 15, SECTOR):
            entry = data[at : at + 16]
            if zlib.crc32(b"epoch" + entry[:4] + entry[8:]) == u32(entry, 4):
                found.append((u32(entry, 0), u64(entry, 8)))
        return found

    def end_of_control(self):
        """The end that the control page knows, if it counts."""
        path = os.path.join(self.path, "control")
        if not os.path.exists(path):
            return 0
        page, status = self.read("control"), os.stat(path)
        identity = (boot_id(), status.st_dev, status.st_ino, 1)
        counts = page[:8] == b"ddCTL\0\0\2" and identity == (page[8:24], *struct.unpack_from("<QQQ", page, 24))
        return u64(page, 384) if counts else 0

    def boundary(self):
        """The promised boundary: what the newest headers and checkpoints, or the control page, say."""
        found, segments = self.end_of_control(), 0
        for base in reversed(self.bases):
            data = self.read("%020d.seg" % base)
            try:
                header = segment_header(data, base, self.id)
            except Damaged:
                continue
            if header:
                slot = checkpoint(data, header["salt"])
                # More records than the file can hold were never promised.
                slot = slot if slot <= base + most_records(data) else 0
                found = max(found, header["durable_end"], slot)
                segments += 1
            if segments == 2:
                break
        return found

    def header(self, base, data):
        """The segment's header; None if it has none, and the reason if it is damaged."""
        try:
            return segment_header(data, base, self.id), None
        except Damaged as damage:
            return None, str(damage)

    def contents(self):
        """Frames and lost ranges of the whole topic, in the order of their offsets. Sets `end`."""
        self.end, boundary = self.bases[0] if self.bases else 0, self.boundary()
        for base, limit in zip(self.bases, self.bases[1:] + [None]):
            if base > self.end:
                if self.end >= boundary:
                    # The log has ended before this segment.
                    return
                yield (self.end, base, "damaged")
            data, batch = self.read("%020d.seg" % base), []
            header, damage = self.header(base, data)
            if header is None:
                if not damage and base >= boundary:
                    # Named, and never written: no part of the log.
                    self.end = max(self.end, base)
                    if limit is not None:
                        return
                    continue
                # Nobody knows how many records followed a header that was written.
                most = max(base + most_records(data), boundary) if damage else boundary
                self.end = most if limit is None else limit
                yield (base, self.end, damage or "no header was ever written")
                continue
            follows = limit is not None and self.header(limit, self.read("%020d.seg" % limit))[0] is not None
            self.end = max(self.end, base)
            for found in frames_of(data, header["salt"], base, limit, boundary, follows):
                if found is ENDS:
                    batch, limit = [], None
                elif isinstance(found, tuple):
                    # What is left of a batch counts: it was whole once.
                    yield from batch
                    batch = []
                    yield found
                    self.end = found[1]
                else:
                    batch.append(found)
                    found.update(segment=base, batch=batch[0]["offset"])
                    if not found["continues"]:
                        yield from batch
                        batch = []
                        self.end = found["offset"] + 1
            if limit is not None:
                yield from batch
                self.end = limit

    def index(self, base, salt, end):
        """The entries of a segment's index: (offset, largest timestamp before it, position)."""
        data = enveloped(self.read("%020d.idx" % base), b"ddropIDX", 36)
        entries = data[40 : 40 + 24 * u32(data, 12)]
        if zlib.crc32(entries) != u32(data, 32):
            raise Damaged("the checksum of the entries is wrong")
        if u64(data, 16) != salt or u64(data, 24) != end:
            raise Damaged("it is of another segment")
        return [struct.unpack_from("<QQQ", entries, at) for at in range(0, len(entries), 24)]

    def clamped(self, epoch, offset):
        """A position that was stored in an epoch, as the later ones leave it."""
        return min([offset] + [start for number, start in self.epochs() if number > epoch])

    def positions(self, page, file_status, is_of_service=False):
        """What an offset file, or a lane's page of a group file, says: where its owner continues, and where it
        would after a power loss."""
        enveloped(page, b"ddropOFF", 24)
        if u64(page, 16) != self.id:
            raise Damaged("it is of another topic")
        slots = []
        for at in (1024, 1536):
            slot = page[at : at + 40]
            if zlib.crc32(slot[:32]) == u32(slot, 32) and u64(slot, 0) != 0:
                slots.append({"sequence": u64(slot, 0), "epoch": u32(slot, 8), "turn": u32(slot, 12),
                              "offset": u64(slot, 16), "floor": u64(slot, 24)})
        newest = max(slots, key=lambda slot: slot["sequence"], default=None)
        live = {"epoch": u32(page, 552), "turn": u32(page, 608), "offset": u64(page, 560)}
        counts = (u64(page, 544) == 1 and page[512:528] == boot_id()
                  and (u64(page, 528), u64(page, 536)) == (file_status.st_dev, file_status.st_ino))
        if counts:
            turn_of = lambda position: (position["turn"], position["offset"])
            position = live if newest is None or turn_of(live) >= turn_of(newest) else newest
        elif newest is None:
            position = None
        else:
            fits = u64(page, 616) == mix(mix((1 << 63) + (newest["epoch"] << 32) + newest["turn"]) ^ live["offset"])
            is_later = fits and live["offset"] > newest["offset"] and not is_of_service
            position = {"epoch": newest["epoch"], "offset": live["offset"]} if is_later else newest
        # On this boot a slot is on the disk if the live words say so; else the one before it counts as well.
        newest_sequence = newest["sequence"] if newest else 0
        known = min(u64(page, 600), newest_sequence) if counts else newest_sequence
        durable = [self.clamped(slot["epoch"], slot["offset"]) for slot in slots if slot["sequence"] >= known]
        found = {"committed": position and self.clamped(position["epoch"], position["offset"]),
                 "durable": min(durable, default=0), "floor": newest and newest["floor"]}
        if u64(page, 2048):
            note = page[2080 : 2080 + min(u64(page, 2072), PAGE - 2080)]
            found["attempt"] = {"offset": u64(page, 2048) - 1, "count": u64(page, 2056), "note": base64_of(note)}
        return found


def mix(value):
    """The finalizer of SplitMix64."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    value = (value ^ value >> 27) * 0x94D049BB133111EB % (1 << 64)
    return value ^ value >> 31


def boot_id():
    """This boot, as live words name it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        digits = file.read().strip().replace("-", "")
    return struct.pack("<QQ", int(digits[:16], 16), int(digits[16:], 16))


def describe(topic, name):
    """What is printed about a topic, as objects."""
    yield {"kind": "topic", "topic": name, "settings": topic.settings, "epochs": topic.epochs()}
    for found in topic.contents():
        if isinstance(found, tuple):
            yield {"kind": "lost", "from": found[0], "to": found[1], "why": found[2]}
            continue
        key, headers = found["key"], headers_of(found["headers"])
        service = dict(reversed(headers)).get("deaddrop.service")
        yield {
            "kind": "record",
            "offset": found["offset"],
            "batch": found["batch"],
            "segment": found["segment"],
            "position": found["position"],
            "timestamp_nanos": found["time"],
            "key": None if key is None else base64_of(key),
            "headers": [[header, base64_of(value)] for header, value in headers],
            "service": None if service is None else envelope_of(service),
            "payload": base64_of(found["payload"]),
        }
    yield {"kind": "end", "offset": topic.end}
    for base, end in zip(topic.bases, topic.bases[1:]):
        if os.path.exists(os.path.join(topic.path, "%020d.idx" % base)):
            try:
                header = segment_header(topic.read("%020d.seg" % base), base, topic.id)
                yield {"kind": "index", "base": base, "entries": topic.index(base, header["salt"], end)}
            except Damaged:
                pass  # An index that does not count is as good as none.
    for consumer in topic.names("consumers"):
        status = os.stat(os.path.join(topic.path, "consumers", consumer))
        positions = topic.positions(topic.read("consumers", consumer), status)
        yield {"kind": "consumer", "consumer": consumer, **positions}
    for group in topic.names("groups"):
        data = topic.read("groups", group)
        enveloped(data, b"ddropGRP", 28)
        if u64(data, 16) != topic.id:
            raise Damaged("the group is of another topic")
        status = os.stat(os.path.join(topic.path, "groups", group))
        of_service = group == "server" and name.endswith(".requests")
        lanes = [topic.positions(data[at : at + PAGE], status, of_service)
                 for at in range(PAGE, PAGE + PAGE * u32(data, 24), PAGE)]
        yield {"kind": "group", "group": group, "lanes": lanes}


def main(arguments):
    directory = arguments[0]
    with open(os.path.join(directory, "deaddrop"), "rb") as file:
        enveloped(file.read(), b"ddropLOG", 16)
    topics = arguments[1:] or sorted(filter(NAME.fullmatch, os.listdir(os.path.join(directory, "topics"))))
    for name in topics:
        for found in describe(Topic(os.path.join(directory, "topics", name)), name):
            print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
