"""The case classes of the Autobahn testsuite, converted from Python 2 while they are loaded.

They are fetched, not kept here (Apache License 2.0, Crossbar.io). Python 2 had one kind of string for
text and bytes; here every payload is a `str` with one character per byte (latin-1), and only the peer
that sends them makes bytes of them.
"""

import binascii
import importlib.abc
import importlib.util
import os
import re
import sys
import types
import zipfile

PACKAGE = "autobahn_cases"

# What differs between the two languages in these files, and nothing more.
CONVERSIONS = [
    (r"(?m)^from (case\w*) import", r"from .\1 import"),
    (r"\bxrange\(", "range("),
    # Printed by functions that no case calls.
    (r"(?m)^(\s*)print\b.*$", r"\1pass"),
    (r"len\(self\.payload\) / self", "len(self.payload) // self"),
    # `object` before a class that is one already has no order of resolution any more.
    (r"\(object, Case, \)", "(Case, )"),
    # The only case that needs twisted is switched off in the suite itself.
    (r"(?m)^from \.case9_9_1 import .*$", ""),
]


class Utf8Validator:
    """Answers (valid so far, ends on a code point), as the suite's own does."""

    def reset(self):
        pass

    def validate(self, payload):
        try:
            payload.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            return error.reason == "unexpected end of data", False
        return True, True


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the suite's modules under a name of our own and converts them."""

    def __init__(self, wheel):
        self.wheel = zipfile.ZipFile(wheel)

    def find_spec(self, name, path=None, target=None):
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            return None
        return importlib.util.spec_from_loader(name, self, is_package=name == PACKAGE)

    def exec_module(self, module):
        name = module.__name__.removeprefix(PACKAGE).removeprefix(".") or "__init__"
        source = self.wheel.read(f"autobahntestsuite/case/{name}.py").decode("latin-1")
        for pattern, replacement in CONVERSIONS:
            source = re.sub(pattern, replacement, source)
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)


def stand_in(name, **contents):
    """A module of a library that the cases import and hardly use."""
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


class Anything:
    """What the compression cases build when they are loaded; none of them is run."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, _name):
        return None


def hexadecimal(payload):
    payload = payload.encode("latin-1") if isinstance(payload, str) else payload
    return binascii.hexlify(payload).decode()


def load(wheel, protocol):
    """All case classes of the suite's wheel in its order; `protocol` has the states and codes that they name."""
    offers = ["Offer", "OfferAccept", "Response", "ResponseAccept"]
    stand_in("autobahn")
    stand_in("autobahn.websocket")
    stand_in("autobahn.websocket.protocol", WebSocketProtocol=protocol)
    stand_in("autobahn.websocket.utf8validator", Utf8Validator=Utf8Validator)
    stand_in("autobahn.websocket.compress", **{f"PerMessageDeflate{it}": Anything for it in offers})
    stand_in("pkg_resources", resource_filename=lambda *_: os.devnull)
    binascii.b2a_hex = hexadecimal
    sys.meta_path.insert(0, Finder(wheel))
    return importlib.import_module(PACKAGE).Cases


def name_of(case):
    """`Case9_1_1` is 9.1.1."""
    return case.__name__.removeprefix("Case").replace("_", ".")
