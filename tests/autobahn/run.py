"""Runs the cases of the Autobahn testsuite against a WebSocket server and prints a line of JSON for each.

    run.py WHEEL ADDRESS PATH [--token TOKEN] [--only REGULAR_EXPRESSION]

Without a token the server is expected to send every message back. With one it is natter's gateway: it
is greeted first, sends back nothing, and what a case expects but for the echo must still hold.

A case is not applicable, and counted as such with its reason, if
- it is about compression (12 and 13), which natter does not negotiate; that the offer is not taken is a
  case of its own;
- nothing but the echo is expected, of a server that sends back nothing;
- it sends binary messages: natter's protocol is text, and the server must have closed with 1002;
- it sends a message of more than 64 KiB: the server must have closed with 1009.
"""

import argparse
import asyncio
import json
import re

import cases
import peer

AT_ONCE = 8
CASE_WITHIN = 60
NOT_APPLICABLE = "NOT APPLICABLE"
MESSAGE_BYTES_MAX = 64 * 1024
COMPRESSION = re.compile(r"(12|13)\.")


def events_but_messages(events):
    return [event for event in events if event[0] != "message"]


class Target:
    def __init__(self, arguments):
        self.host, port = arguments.address.rsplit(":", 1)
        self.port, self.path, self.token = int(port), arguments.path, arguments.token

    async def connect(self, headers=()):
        reader, writer, answer = await peer.connect(self.host, self.port, self.path, headers)
        return peer.Peer(reader, writer), answer

    async def greet(self, connection):
        hello = {"id": 1, "op": "hello", "token": self.token}
        connection.sendMessage(json.dumps(hello).encode())
        live = False
        while not live:
            event = await connection.receive()
            assert event[0] == "message", f"{event} instead of a greeting"
            lines = [json.loads(line) for line in event[1].split("\n")]
            assert all("err" not in line for line in lines), f"{lines}"
            live = any(line.get("ev") == "live" for line in lines)
        connection.txFrameStats = dict.fromkeys(connection.txFrameStats, 0)

    def expect_no_echo(self, case):
        """Takes the echo out of what the case expects; whether anything is left to look at."""
        strict = case.expected.get(case.OK)
        case.expected = {name: events_but_messages(it) for name, it in case.expected.items()}
        if strict is None:
            return False
        return bool(case.expected[case.OK]) or not strict or not case.expectedClose["closedByMe"]


async def converse(connection, case, silent):
    while True:
        event = await connection.receive()
        if event[0] == "message" and not silent:
            case.onMessage(event[1], event[2])
        elif event[0] == "ping":
            case.onPing(event[1])
        elif event[0] == "pong":
            case.onPong(event[1])


def is_good(outcome):
    return outcome[0] in ("OK", "NON-STRICT", "INFORMATIONAL") and outcome[1] in ("OK", "INFORMATIONAL")


def refused(connection):
    """Why natter would not take what was sent, if it said so with the right code."""
    if connection.longest > MESSAGE_BYTES_MAX and connection.remoteCloseCode == 1009:
        return "a message over 64 KiB"
    if connection.sentBinary and connection.remoteCloseCode == 1002:
        return "a binary message"
    return None


async def run(case_class, target):
    connection, _ = await target.connect()
    silent = target.token is not None
    if silent:
        await target.greet(connection)
    case = case_class(connection)
    case.onOpen()
    if silent and not target.expect_no_echo(case):
        connection.writer.transport.abort()
        outcome = (NOT_APPLICABLE, "", "needs an echo", "")
    else:
        case.compare = lambda seen, wanted: [*map(tuple, seen)] == [*map(tuple, wanted)]
        try:
            await asyncio.wait_for(converse(connection, case, silent), CASE_WITHIN)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        connection.state = connection.STATE_CLOSED
        case.onConnectionLost(connection.failedByMe)
        outcome = (case.behavior, case.behaviorClose, case.result, case.resultClose)
        if (why := refused(connection)) and not is_good(outcome):
            outcome = (NOT_APPLICABLE, "", why, "")
        connection.writer.transport.abort()
    for waiting in connection.later:
        waiting.cancel()
    return outcome


async def compression_is_not_taken(target):
    connection, answer = await target.connect(["Sec-WebSocket-Extensions: permessage-deflate"])
    connection.writer.transport.abort()
    taken = answer.get("sec-websocket-extensions")
    return ("OK", "OK", "", "") if taken is None else ("FAILED", "", f"took {taken}", "")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel")
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("--token")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    target, only = Target(arguments), re.compile(arguments.only)
    slots = asyncio.Semaphore(AT_ONCE)

    async def report(name, job):
        async with slots:
            try:
                outcome = await job()
            # Whatever goes wrong here is a failed case with that reason, not a run that ends.
            except Exception as error:
                outcome = ("FAILED", "", f"{type(error).__name__}: {error}", "")
        behavior, close, result, result_close = outcome
        line = {"case": name, "behavior": behavior, "close": close}
        print(json.dumps({**line, "why": f"{result} {result_close}"}), flush=True)

    jobs = [report("compression offer", lambda: compression_is_not_taken(target))]
    for case_class in cases.load(arguments.wheel, peer.Protocol):
        name = cases.name_of(case_class)
        if COMPRESSION.match(name):
            print(json.dumps({"case": name, "behavior": NOT_APPLICABLE, "why": "compression"}))
        elif only.match(name):
            jobs.append(report(name, lambda it=case_class: run(it, target)))
    await asyncio.gather(*jobs)


asyncio.run(main())
