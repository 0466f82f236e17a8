"""A minimal WebSocket client (RFC 6455) on plain sockets, with the freedom to send wrong frames."""

import base64
import hashlib
import os
import socket
import struct
import time
import urllib.parse

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(Exception):
    """The server closed; `code` is None if it gave none."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed with {code} {reason}")
        self.code = code
        self.reason = reason


class WebSocket:
    def __init__(self, url, protocol=None, timeout=10.0):
        parts = urllib.parse.urlsplit(url)
        self.timeout = timeout
        self.sock = socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        request = (
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"{offer}\r\n"
        )
        self.sock.sendall(request.encode())
        deadline = time.monotonic() + timeout
        while b"\r\n\r\n" not in self.buffer:
            self._fill(deadline)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        assert " 101 " in lines[0] + " ", f"no upgrade: {lines[0]}"
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        wanted = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        assert headers.get("sec-websocket-accept") == wanted, "the handshake proves nothing"
        self.protocol = headers.get("sec-websocket-protocol")

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing came in time")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(65536)
        except socket.timeout as error:
            raise TimeoutError("nothing came in time") from error
        except ConnectionError as error:
            raise Closed(None, str(error)) from error
        if not data:
            raise Closed(None, "end of stream")
        self.buffer += data

    def _take(self, count, deadline):
        while len(self.buffer) < count:
            self._fill(deadline)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def send_frame(self, opcode, payload, final=True, masked=True):
        head = bytes([(0x80 if final else 0) | opcode])
        bit, size = (0x80 if masked else 0), len(payload)
        if size < 126:
            head += bytes([bit | size])
        elif size < 65536:
            head += bytes([bit | 126]) + struct.pack("!H", size)
        else:
            head += bytes([bit | 127]) + struct.pack("!Q", size)
        if masked:
            mask = os.urandom(4)
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
            head += mask
        self.sock.sendall(head + payload)

    def send_text(self, text):
        self.send_frame(TEXT, text.encode())

    def _frame(self, deadline):
        first, second = self._take(2, deadline)
        assert first & 0x70 == 0, "reserved bits are set"
        assert second & 0x80 == 0, "a server never masks"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2, deadline))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8, deadline))
        return bool(first & 0x80), first & 0x0F, self._take(size, deadline)

    def receive(self, timeout=None):
        """The next text message; answers pings of the WebSocket layer, raises Closed at the end."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        whole = b""
        while True:
            final, opcode, payload = self._frame(deadline)
            if opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
                try:
                    self.send_frame(CLOSE, payload[:2])
                except OSError:
                    pass
                self.sock.close()
                raise Closed(code, payload[2:].decode("utf-8", "replace"))
            elif opcode in (TEXT, CONTINUATION):
                whole += payload
                if final:
                    return whole.decode("utf-8")
            else:
                assert opcode == PONG, f"unexpected opcode {opcode}"

    def close(self, code=1000):
        try:
            self.send_frame(CLOSE, struct.pack("!H", code))
            while True:
                self.receive(timeout=2)
        except (Closed, TimeoutError, OSError):
            pass
        self.sock.close()

    def abort(self):
        """Goes without a word, like a phone in a tunnel."""
        self.sock.close()
