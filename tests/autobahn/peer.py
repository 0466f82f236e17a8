"""One connection as the Autobahn cases see it: they act through it and are told what comes back.

It sends whatever a case asks for, be it wrong. It checks the frames of the server itself, which the
cases take for granted.
"""

import asyncio
import base64
import hashlib
import os
import struct

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# The cases give a server a second for most things; a busy machine gets a little more.
PATIENCE = 4
# After the closing handshake it is for the server to end the connection (RFC 6455, section 7.1.1).
SERVER_DROPS_WITHIN = 10


class Protocol:
    """The names that the cases use of the library they were written for."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = 0, 1, 2, 3
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007


class NotARule(AssertionError):
    """The server broke a rule that no case looks at."""


async def connect(host, port, path, headers=()):
    """Opens a connection, checks the handshake and returns the streams and the answer's headers."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 26)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    require(" 101 " in head[0], f"no upgrade: {head[0]}")
    answer = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        answer[name.strip().lower()] = value.strip()
    proof = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    require(answer.get("sec-websocket-accept") == proof, "the handshake proves nothing")
    return reader, writer, answer


def require(holds, what):
    if not holds:
        raise NotARule(what)


def to_bytes(payload):
    return payload if isinstance(payload, bytes) else (payload or "").encode("latin-1")


def masked(payload, mask):
    size = len(payload)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


class Peer(Protocol):
    """What the cases call `self.p`; its names are theirs."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.state = self.STATE_OPEN
        self.connectionWasOpen = True
        self.closedByMe = self.droppedByMe = self.failedByMe = self.wasClean = False
        self.remoteCloseCode = self.localCloseReason = None
        self.closeSent = self.closeReceived = False
        self.autoFragmentSize = 0
        self.txFrameStats = {CONTINUATION: 0, TEXT: 0, BINARY: 0, CLOSE: 0, PING: 0, PONG: 0}
        # What was sent that natter does not take: binary messages, and long ones.
        self.sentBinary, self.sentBytes, self.longest = False, 0, 0
        self.later = []
        self.factory = self
        self.isServer = False
        self._began = TEXT

    # What a case does with time.

    def continueLater(self, seconds, act, _tag=None):
        async def wait():
            await asyncio.sleep(seconds)
            if self.state != self.STATE_CLOSED:
                act()

        self.later.append(asyncio.ensure_future(wait()))

    def killAfter(self, seconds):
        self.continueLater(seconds * PATIENCE, self.fail)

    def closeAfter(self, seconds):
        self.continueLater(seconds * PATIENCE, self.sendClose)

    def fail(self):
        self.failedByMe = self.droppedByMe = True
        # Waiting in vain for the server to end it is ending it ourselves.
        self.closedByMe = self.closedByMe or not self.closeReceived
        self.state = self.STATE_CLOSED
        self.writer.transport.abort()

    # What a case sends.

    def write(self, data, chopsize=None):
        if self.writer.transport.is_closing():
            return
        for at in range(0, len(data), chopsize or max(1, len(data))):
            self.writer.write(data[at : at + (chopsize or len(data))])

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, payload_len=None, chopsize=None, sync=False):
        payload = to_bytes(payload)
        if payload_len is not None:
            payload = (payload * (payload_len // max(1, len(payload)) + 1))[:payload_len]
        size = len(payload)
        head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += bytes([0x80 | 126]) + struct.pack("!H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack("!Q", size)
        mask = os.urandom(4)
        if opcode < CLOSE:
            self.sentBinary = self.sentBinary or opcode == BINARY
            self.sentBytes = size + (self.sentBytes if opcode == CONTINUATION else 0)
            self.longest = max(self.longest, self.sentBytes)
        if opcode in self.txFrameStats:
            self.txFrameStats[opcode] += 1
        self.write(head + mask + masked(payload, mask), chopsize)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None):
        payload, size = to_bytes(payload), fragmentSize or self.autoFragmentSize
        opcode = BINARY if isBinary else TEXT
        if not size:
            return self.sendFrame(opcode, payload)
        for at in range(0, max(1, len(payload)), size):
            last = at + size >= len(payload)
            self.sendFrame(CONTINUATION if at else opcode, payload[at : at + size], fin=last)

    def beginMessage(self, isBinary=False):
        self._began = BINARY if isBinary else TEXT

    def beginMessageFrame(self, size):
        require(size < 126, "no case begins a long frame")
        # A mask of zeros leaves the bytes that follow as they are.
        self.write(bytes([0x80 | self._began, 0x80 | size]) + bytes(4))

    def sendMessageFrameData(self, payload, sync=False):
        self.write(to_bytes(payload))

    def endMessage(self):
        pass

    def sendPing(self, payload=""):
        self.sendFrame(PING, payload)

    def sendClose(self, code=None, reason=None):
        if not self.closeReceived:
            self.sendCloseFrame(code, reason)
            self.continueLater(SERVER_DROPS_WITHIN, self.fail)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.closeSent:
            return
        self.closeSent = True
        self.closedByMe = self.closedByMe or not isReply
        self.state = self.STATE_CLOSING
        code = b"" if code is None else struct.pack("!H", code)
        self.sendFrame(CLOSE, code + to_bytes(reasonUtf8))

    # What a case is told to ignore here.

    def enableWirelog(self, _enabled):
        pass

    # What the server sends.

    async def frame(self):
        first, second = await self.reader.readexactly(2)
        require(first & 0x70 == 0, "the server set reserved bits")
        require(second & 0x80 == 0, "the server masked a frame")
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            require(size > 125, "the server wrote a size longer than needed")
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            require(size > 0xFFFF, "the server wrote a size longer than needed")
        opcode = first & 0x0F
        require(opcode in (0, 1, 2, 8, 9, 10), f"the server sent opcode {opcode}")
        require(opcode < 8 or (size <= 125 and first & 0x80), "the server broke a control frame up")
        return opcode, bool(first & 0x80), await self.reader.readexactly(size)

    async def receive(self):
        """The next ("message", text, is binary), ("ping", ..), ("pong", ..) or ("close", code)."""
        whole, kind = None, None
        while True:
            opcode, final, payload = await self.frame()
            text = payload.decode("latin-1")
            if opcode == PING:
                self.sendFrame(PONG, payload)
                return "ping", text
            if opcode == PONG:
                return "pong", text
            if opcode == CLOSE:
                return "close", self.closed(payload)
            require((opcode == CONTINUATION) == (whole is not None), "the server mixed messages")
            whole, kind = (whole or "") + text, kind or opcode
            if final:
                return "message", whole, kind == BINARY

    def closed(self, payload):
        require(len(payload) != 1, "the server sent half a close code")
        if len(payload) >= 2:
            (self.remoteCloseCode,) = struct.unpack("!H", payload[:2])
            payload[2:].decode("utf-8")
        self.closeReceived = self.wasClean = True
        if not self.closeSent:
            self.sendCloseFrame(self.remoteCloseCode, isReply=True)
        self.state = self.STATE_CLOSING
        return self.remoteCloseCode
