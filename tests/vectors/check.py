#!/usr/bin/env python3
"""Computes the derived vectors again without any of natter's code: room ids, partitions, user ids,
times of cids and the hash chain. Python's standard library only. Exits with 1 at the first difference."""

import base64
import hashlib
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
CONTENT = {"text", "meta", "why", "name", "topic", "mentions", "emoji", "avatar", "draft", "status"}


def cases(name):
    return json.loads((HERE / name).read_text(encoding="utf-8"))["cases"]


def b64(digest):
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def short(*parts):
    return b64(hashlib.sha256("\n".join(parts).encode()).digest())[:22]


def partition(room):
    value = 0x811C9DC5
    for byte in room.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % 64


def canonical(fields):
    # Python sorts by code point, which for UTF-8 is the order of bytes.
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chain_hash(fields):
    commit = fields.get("commit")
    if commit is None:
        content = canonical({k: v for k, v in fields.items() if k in CONTENT})
        commit = b64(hashlib.sha256((fields["salt"] + "\n" + content).encode()).digest())
    header = {k: v for k, v in fields.items() if k not in CONTENT and k not in ("salt", "commit")}
    header["commit"] = commit
    return b64(hashlib.sha256(("natter.event.1\n" + canonical(header)).encode()).digest()), commit


def same(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: computed {found!r}, the vector says {wanted!r}")


def check_rooms():
    for case in cases("room-ids.json"):
        how = case["how"]
        if "direct" in how:
            room = "d" + short(*sorted(set(how["direct"])))
        elif "created" in how:
            room = "r" + short(how["created"]["author"], how["created"]["cid"])
        elif "own" in how:
            room = "s_" + short(how["own"])
        else:
            room = how["given"]
        same(room, case["room"], how)
        same(partition(room), case["partition"], how)


def check_ids():
    for case in cases("ids.json"):
        if "id" in case:
            valid = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", case["id"]) is not None
            same(valid, case["valid"], case["id"])
        elif "cid" in case:
            shape = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
            time = None
            if re.fullmatch(shape, case["cid"]):
                time = int(case["cid"].replace("-", "")[:12], 16)
            same(time, case["time"], case["cid"])
        elif "cursor" in case:
            found = re.fullmatch(r"[A-Za-z0-9_-]{1,64}\.([0-9]+)", case["cursor"])
            same(int(found[1]) if found else None, case["position"], case["cursor"])
        else:
            plain = case["configured"] and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", case["sub"])
            user = case["sub"] if plain else "u_" + short(case["iss"], case["sub"])
            same(user, case["user"], case["sub"])


def check_chain():
    prev = b64(bytes(32))
    for case in cases("hash-chain.json"):
        fields = json.loads(case["line"])
        same(canonical(fields), case["line"], "canonical JSON")
        same(fields["prev"], prev, "prev")
        prev, commit = chain_hash(fields)
        same(prev, case["hash"], case["line"])
        erased = {k: v for k, v in fields.items() if k not in CONTENT and k != "salt"}
        same(chain_hash({**erased, "commit": commit})[0], case["hash"], "erased")


if __name__ == "__main__":
    check_rooms()
    check_ids()
    check_chain()
    print("room ids, partitions, ids and hash chain agree")
