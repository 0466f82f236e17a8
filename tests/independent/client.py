#!/usr/bin/env python3
"""Follows docs/protocol.md from hello to resume, with nothing of natter's code.

usage: client.py [--url ws://127.0.0.1:8080] [--no-ping]

Python's standard library only. The server must give development tokens. Every step asserts what the
protocol says; the first that does not hold ends the run with exit code 1."""

import argparse
import base64
import collections
import hashlib
import json
import os
import sys
import time
import urllib.request

sys.dont_write_bytecode = True  # A test leaves nothing behind in the tree.

from websocket import CONTINUATION, TEXT, Closed, WebSocket  # noqa: E402

PROTOCOL = "natter.v1.json"


def uuid7(unix_ms=None):
    """A UUID of version 7 (RFC 9562, section 5.7)."""
    ms = int(time.time() * 1000) if unix_ms is None else unix_ms
    raw = bytearray(ms.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived(prefix, *parts):
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return prefix + base64.urlsafe_b64encode(digest).decode()[:22]


def show(step):
    print(f"ok  {step}", flush=True)


class Refused(Exception):
    def __init__(self, error):
        super().__init__(str(error))
        self.error = error


class Socket:
    """One socket of one user: commands with ids, and every event that came, per room."""

    def __init__(self, server, user, dev, cur=None, have=None, token=None):
        self.server, self.user, self.dev = server, user, dev
        self.ws = WebSocket(server.socket_url, PROTOCOL)
        assert self.ws.protocol == PROTOCOL, self.ws.protocol
        self.ids = 0
        self.replies = {}
        self.stray = []
        self.frames = collections.deque()
        self.events = collections.defaultdict(list)
        self.states, self.skips, self.gone = {}, {}, []
        self.order = []
        self.cur, self.pings = None, 0
        hello = {"token": token or server.token(user), "app": "independent/1", "dev": dev}
        hello["win"] = {"rooms": 10, "tl": 10}
        if cur is not None:
            hello["cur"] = cur
        if have is not None:
            hello["have"] = have
        self.hello = self.do("hello", **hello)
        self.until(lambda: self.cur is not None, "live")

    def line(self, op, **fields):
        self.ids += 1
        return self.ids, json.dumps({"id": self.ids, "op": op, **fields})

    def do(self, op, **fields):
        """Sends one command and waits for its reply."""
        number, line = self.line(op, **fields)
        self.ws.send_text(line)
        return self.reply(number)

    def refused(self, op, **fields):
        """Sends one command that must be refused; the refusal."""
        try:
            ok = self.do(op, **fields)
        except Refused as refused:
            error = refused.error
            assert isinstance(error["msg"], str) and isinstance(error["temp"], bool), error
            assert ("retry_after_ms" in error) == error["temp"], error
            return error
        raise AssertionError(f"{op} {fields} should have been refused, got {ok}")

    def reply(self, number):
        self.until(lambda: number in self.replies, f"the reply to {number}")
        frame = self.replies.pop(number)
        if "err" in frame:
            raise Refused(frame["err"])
        return frame["ok"]

    def write(self, op, **fields):
        return self.do(op, **{"cid": uuid7(), **fields})

    def send(self, room, text, **fields):
        return self.write("send", room=room, text=text, **fields)

    def until(self, state, what, timeout=10.0):
        deadline = time.monotonic() + timeout
        while not state():
            left = deadline - time.monotonic()
            assert left > 0, f"{self.user} waited in vain for {what}"
            try:
                text = self.ws.receive(left)
            except TimeoutError:
                raise AssertionError(f"{self.user} waited in vain for {what}") from None
            for line in text.split("\n"):
                self.take(json.loads(line))

    def take(self, frame):
        if "ev" not in frame:
            if "id" in frame:
                self.replies[frame["id"]] = frame
            else:
                self.stray.append(frame)
            return
        kind, room = frame["ev"], frame.get("room")
        self.order.append((kind, room))
        if kind == "live":
            self.cur = frame["cur"]
        elif kind == "ping":
            self.pings += 1
            self.cur = frame.get("cur", self.cur)
            assert isinstance(frame["now"], int)
            self.ws.send_text('{"op":"pong"}')
        elif kind == "state":
            self.states[room] = frame
        elif kind == "skip":
            self.skips[room] = frame
        elif kind == "gone":
            self.gone.append(room)
        elif "seq" in frame:
            for field in ("room", "seq", "ts", "by", "cid"):
                assert field in frame, f"{field} is missing in {frame}"
            self.events[room].append(frame)

    def sees(self, room, seq):
        """Waits for the event at this seq."""
        self.until(lambda: any(e["seq"] == seq for e in self.events[room]), f"event {seq}")
        return next(e for e in self.events[room] if e["seq"] == seq)

    def seqs(self, room):
        return [event["seq"] for event in self.events[room]]

    def enters(self, room):
        self.until(lambda: room in self.states, f"the state of {room}")
        return self.states[room]

    def quiet(self, seconds=0.5):
        """Reads for a moment; whatever comes is kept."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                text = self.ws.receive(left)
            except TimeoutError:
                return
            for line in text.split("\n"):
                self.take(json.loads(line))


class Server:
    def __init__(self, url):
        base = url.replace("http://", "ws://").rstrip("/")
        self.socket_url = base if base.endswith("/v1/ws") else base + "/v1/ws"
        self.http_url = self.socket_url.replace("ws://", "http://")[: -len("/v1/ws")]

    def token(self, user):
        body = json.dumps({"user": user, "name": user, "roles": []}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.http_url + "/v1/dev/token", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["token"]


def hello(server, names):
    alice = Socket(server, names["alice"], "devalice1")
    ok = alice.hello
    assert ok["user"] == names["alice"]
    assert ok["self"] == derived("s_", names["alice"])
    assert ok["resumed"] is False and ok["ping_ms"] == 25_000
    assert abs(ok["now"] - time.time() * 1000) < 30_000 and ok["token_exp"] > ok["now"]
    assert ok["limits"]["text_chars"] == 8_000
    assert alice.order[0] == ("state", ok["self"]), "the own room comes first"
    assert alice.states[ok["self"]]["kind"] == "self"
    assert alice.order[-1][0] == "live"
    show("hello is answered; the own room comes first, then live with a cursor")
    return alice


def rooms(server, names, alice):
    cid = uuid7()
    made = alice.do("create", cid=cid, kind="public", name="independent", topic="été")
    room = made["room"]
    assert room == derived("r", names["alice"], cid), "a room's id is derived"
    state = alice.enters(room)
    assert state["name"] == "independent" and state["role"] == "owner" and state["at"] >= 2
    again = alice.do("create", cid=cid, kind="public", name="independent", topic="été")
    assert again["dup"] is True and (again["room"], again["seq"]) == (room, made["seq"])
    bob = Socket(server, names["bob"], "devbob1")
    joined = bob.write("join", room=room)
    state = bob.enters(room)
    assert state["at"] >= joined["seq"] and state["members"] == 2, state
    event = alice.sees(room, joined["seq"])
    assert (event["ev"], event["user"], event["change"]) == ("member", names["bob"], "joined")
    assert bob.write("join", room=room)["noop"] is True
    show("a room is made once, entered, and its id is what the protocol says")
    return room, bob


def messages(alice, bob, room):
    cid = uuid7()
    sent = alice.do("send", room=room, cid=cid, text="hello 👋", mentions=[bob.user])
    one, two = alice.sees(room, sent["seq"]), bob.sees(room, sent["seq"])
    assert one == two and one["text"] == "hello 👋" and one["cid"] == cid
    assert one["by"] == alice.user and one["ts"] == sent["ts"] and one["n"] == 1
    again = alice.do("send", room=room, cid=cid, text="hello 👋", mentions=[bob.user])
    assert again["dup"] is True and again["seq"] == sent["seq"] and again["ts"] == sent["ts"]
    lines = [alice.line("send", room=room, cid=uuid7(), text=f"batch {n}") for n in range(3)]
    alice.ws.send_text("\n".join(line for _, line in lines))
    seqs = [alice.reply(number)["seq"] for number, _ in lines]
    assert seqs == list(range(seqs[0], seqs[0] + 3)), seqs
    reply = bob.send(room, "an answer", reply_to=sent["seq"])
    event = alice.sees(room, reply["seq"])
    assert event["reply_to"] == sent["seq"] and event["by"] == bob.user
    edited = alice.write("edit", room=room, on=seqs[0], base=1, text="changed")
    assert edited["rev"] == 2 and edited["won"] is True
    event = bob.sees(room, edited["seq"])
    assert (event["ev"], event["on"], event["rev"], event["won"]) == ("edit", seqs[0], 2, True)
    deleted = alice.write("del", room=room, on=seqs[1])
    event = bob.sees(room, deleted["seq"])
    assert event["ev"] == "del" and event["on"] == [[seqs[1], seqs[1]]]
    seen = bob.seqs(room)
    assert seen == list(range(seen[0], seen[0] + len(seen))), f"dense and in order: {seen}"
    assert bob.states[room]["at"] + 1 == seen[0], "events go on after the state"
    page = bob.do("history", room=room, after=0, limit=100)
    shown = {entry["seq"]: entry for entry in page["events"]}
    assert shown[seqs[0]]["text"] == "changed" and shown[seqs[0]]["rev"] == 2
    assert shown[seqs[1]]["deleted"] is True and not shown[seqs[1]].get("text")
    dense = bob.do("history", room=room, after=0, limit=100, all=True)
    found = [event["seq"] for event in dense["events"]]
    assert found == list(range(1, deleted["seq"] + 1)), found
    show("messages: one order, repeats once, a batch in order, edits, deletions, history")


def reads(alice, bob, room):
    read = alice.do("read", room=room, cid=uuid7(), seq=alice.seqs(room)[-1])
    assert read["unread"] == 0 and read["read_n"] >= 1, read
    listed = {entry["room"]: entry for entry in alice.do("unread")["rooms"]}
    assert listed[room]["unread"] == 0
    members = alice.do("members", room=room)["members"]
    assert {member["user"]: member["role"] for member in members} == {
        alice.user: "owner",
        bob.user: "member",
    }, members
    assert any(entry["room"] == room for entry in alice.do("rooms")["rooms"])
    show("read marks, unread counts, members and rooms")


def bad_lines(alice, room):
    ws = alice.ws
    for line in ("x", "[1]", "{}", '{"op":5}', '{"id":-1,"op":"pong"}'):
        before = len(alice.stray)
        ws.send_text(line)
        alice.until(lambda: len(alice.stray) > before, f"the answer to {line}")
        assert alice.stray[-1]["err"]["code"] == "bad_request", (line, alice.stray[-1])
    codes = [
        ("teleport", {}, "unsupported"),
        ("send", {"room": room, "text": "no cid"}, "bad_request"),
        ("send", {"room": room, "cid": "x", "text": "a"}, "bad_request"),
        ("send", {"room": room, "cid": uuid7(), "text": " \n"}, "bad_request"),
        ("send", {"room": room, "cid": uuid7(), "text": 5}, "bad_request"),
        ("send", {"room": room, "cid": uuid7(), "text": "é" * 8_001}, "too_large"),
        ("send", {"room": "a.b", "cid": uuid7(), "text": "a"}, "bad_request"),
        ("send", {"room": ">", "cid": uuid7(), "text": "a"}, "bad_request"),
        ("send", {"room": "r\u0000", "cid": uuid7(), "text": "a"}, "bad_request"),
        ("send", {"room": "r" * 5_000, "cid": uuid7(), "text": "a"}, "bad_request"),
        ("send", {"room": "rAbsentAbsentAbsentAbse", "cid": uuid7(), "text": "a"}, "not_found"),
        ("history", {"room": "rAbsentAbsentAbsentAbse", "after": 0}, "not_found"),
    ]
    for op, fields, code in codes:
        error = alice.refused(op, **fields)
        assert error["code"] == code, (op, fields, error)
    future = uuid7(int(time.time() * 1000) + 3_600_000)
    error = alice.refused("send", room=room, cid=future, text="from tomorrow")
    assert error["code"] == "clock_skew" and abs(error["now"] - time.time() * 1000) < 30_000
    sent = alice.send(room, "é" * 8_000)
    assert alice.sees(room, sent["seq"])["text"] == "é" * 8_000
    show("bad lines and wrong commands are answered, and the socket goes on")


def bad_frames(server, names):
    def closed_with(code, act):
        try:
            ws = WebSocket(server.socket_url, PROTOCOL)
            act(ws)
            while True:
                ws.receive(10)
        except Closed as closed:
            assert closed.code == code, f"expected {code}, got {closed}"

    greet = json.dumps({"id": 1, "op": "hello", "token": server.token(names["carol"]), "dev": "d3"})
    closed_with(4501, lambda ws: ws.send_text('{"id":1,"op":"unread"}'))
    closed_with(4500, lambda ws: ws.send_text('{"id":1,"op":"hello","token":"a.b.c"}'))
    closed_with(1007, lambda ws: (ws.send_text(greet), ws.send_frame(TEXT, b"\xff\xfe")))
    closed_with(1009, lambda ws: (ws.send_text(greet), ws.send_frame(TEXT, b"x" * 70_000)))
    closed_with(1002, lambda ws: (ws.send_text(greet), ws.send_frame(TEXT, b"{}", masked=False)))
    carol = Socket(server, names["carol"], "devcarol1")
    number, line = carol.line("unread")
    for index, part in enumerate((line[:5], line[5:9], line[9:])):
        carol.ws.send_frame(TEXT if index == 0 else CONTINUATION, part.encode(), final=index == 2)
    assert carol.reply(number)["rooms"] == []
    show("broken frames close their own socket with the right code; fragments are one message")
    return carol


def resume(server, alice, bob, room):
    bob.quiet()
    bob.ws.close()
    cur = Socket(server, bob.user, bob.dev, cur=bob.cur).cur
    # The socket above is dropped without a word; the cursor is all that is left.
    missed = [alice.send(room, f"while bob was away {n}")["seq"] for n in range(5)]
    missed.append(alice.write("edit", room=room, on=missed[0], base=1, text="better")["seq"])
    bob = Socket(server, bob.user, bob.dev, cur=cur)
    assert bob.hello["resumed"] is True
    assert bob.seqs(room) == missed, (bob.seqs(room), missed)
    assert not bob.states and not bob.skips and bob.order[-1] == ("live", None)
    bob.quiet()
    assert bob.seqs(room) == missed, "nothing comes twice"
    live = alice.send(room, "and live again")["seq"]
    bob.sees(room, live)
    again = Socket(server, bob.user, bob.dev, cur=cur)
    assert again.seqs(room) == missed + [live], "the same cursor tells the same, and what came since"
    again.ws.close()
    for cur in ("nonsense", "k7.1"):
        fresh = Socket(server, bob.user, "devbob2", cur=cur, have={room: 2})
        assert fresh.hello["resumed"] is False
        assert fresh.skips[room]["from"] == 3 and fresh.skips[room]["to"] >= live
        assert fresh.skips[room]["to"] == fresh.skips[room]["at"]
        fresh.ws.close()
    show("resume brings exactly what was missed; an unknown cursor brings a skip, never an error")
    return bob


def kicked_while_away(server, names, alice):
    made = alice.write("create", kind="private", name="inner circle", members=[names["bob"]])
    room = made["room"]
    bob = Socket(server, names["bob"], "devbob3")
    assert room in bob.states
    cur = bob.cur
    bob.ws.abort()
    before = [alice.send(room, f"before {n}")["seq"] for n in range(3)]
    kick = alice.write("kick", room=room, user=names["bob"], why="spam")["seq"]
    alice.send(room, "after")
    bob = Socket(server, names["bob"], "devbob3", cur=cur)
    assert bob.hello["resumed"] is True
    assert bob.seqs(room) == before + [kick], (bob.seqs(room), before, kick)
    assert bob.gone == [room]
    bob.quiet()
    assert bob.seqs(room) == before + [kick] and room not in bob.states
    stranger = bob.refused("history", room=room, after=0)
    absent = bob.refused("history", room="rAbsentAbsentAbsentAbse", after=0)
    assert (stranger["code"], stranger["msg"]) == (absent["code"], absent["msg"]), "alike"
    bob.ws.close()
    show("one kicked while away gets everything up to the kick, then gone, and nothing after")


def ping(carol, since):
    carol.until(lambda: carol.pings > 0, "a ping", timeout=40)
    waited = time.monotonic() - since
    assert 20 < waited < 35, f"a ping after {waited:.1f} s"
    assert carol.do("unread")["rooms"] == []
    cur = carol.cur
    again = Socket(carol.server, carol.user, carol.dev, cur=cur)
    assert again.hello["resumed"] is True, "a ping's cursor is good"
    again.ws.close()
    show(f"a ping came after {waited:.0f} s with a cursor, and was answered")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--url", default="ws://127.0.0.1:8080")
    arguments.add_argument("--no-ping", action="store_true", help="do not wait 25 s for a ping")
    options = arguments.parse_args()
    server = Server(options.url)
    mark = os.urandom(3).hex()
    names = {name: f"ind-{name}-{mark}" for name in ("alice", "bob", "carol")}
    alice = hello(server, names)
    since = time.monotonic()
    carol = bad_frames(server, names)
    room, bob = rooms(server, names, alice)
    messages(alice, bob, room)
    reads(alice, bob, room)
    bad_lines(alice, room)
    bob = resume(server, alice, bob, room)
    kicked_while_away(server, names, alice)
    if not options.no_ping:
        ping(carol, since)
    for one in (alice, bob, carol):
        one.ws.close()
    print("the protocol holds")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, Refused, Closed, TimeoutError, OSError) as error:
        import traceback

        traceback.print_exc()
        sys.exit(f"NOT OK: {error}")
