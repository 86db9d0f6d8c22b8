"""The results of Glance 33 and oslo.utils for disk images, for tests/inspect.rs; run with target/test-services/bin/python.

Reads one question per line from standard input, and answers each with one line of JSON on standard output. A question has the
path of a file, changes of its content ([[offset, [byte, ...]], ...]), the length to truncate it to (or null), the size of the
chunks in which it arrives, and the claims and options: disk_format, container_format, require_image_format_match and
gpt_safety_checks_nonfatal. The answer has the formats found, each with its virtual size (null if reading it fails), whether it
is complete, and the checks that it fails; the error that refuses the file, or null; and the image's virtual size.
"""

import io
import json
import logging
import sys
import types

from glance.common import config, exception, wsgi  # noqa: F401 (wsgi declares enabled_backends)
from glance import location
from oslo_config import cfg
from oslo_utils.imageutils import format_inspector

logging.disable(logging.CRITICAL)
CONF = cfg.CONF
CONF([], project="glance", default_config_files=[], default_config_dirs=[])


class Wrapper(format_inspector.InspectWrapper):
    """Glance's inspector, which stays accessible after use."""

    last = None

    def __init__(self, source):
        super().__init__(source)
        Wrapper.last = self


location.format_inspector = types.SimpleNamespace(**vars(format_inspector))
location.format_inspector.InspectWrapper = Wrapper


class Store:
    """A store that reads all data and discards it."""

    def __init__(self, chunk):
        self.chunk = chunk

    def add_to_backend_with_multihash(self, _conf, _image, data, size, *_args, **_more):
        while data.read(self.chunk):
            pass
        return "url", size, None, None, {}


def formats(wrapper):
    try:
        matches = wrapper.formats
    except Exception as error:
        return repr(error)
    answer = {}
    for inspector in matches:
        try:
            size = inspector.virtual_size
        except Exception:
            size = None
        failures = []
        complete = True
        try:
            inspector.safety_check()
        except format_inspector.SafetyCheckFailed as failed:
            failures = sorted(failed.failures)
        except format_inspector.ImageFormatError:
            complete = False
        answer[str(inspector)] = {"size": size, "complete": complete, "failures": failures}
    return answer


def answer(question):
    with open(question["path"], "rb") as file:
        content = bytearray(file.read())
    for offset, change in question["changes"]:
        content[offset:offset + len(change)] = bytes(change)
    if question["length"] is not None:
        del content[question["length"]:]
    CONF.set_override("require_image_format_match", question["require_match"], group="image_format")
    CONF.set_override("gpt_safety_checks_nonfatal", question["nonfatal"], group="image_format")
    image = types.SimpleNamespace(
        image_id="i", extra_properties={}, os_hash_algo=None, os_hash_value=None, checksum=None, size=None, locations=[],
        status="saving", virtual_size=None, disk_format=question["disk_format"],
        container_format=question["container_format"])
    Wrapper.last = None
    proxy = location.ImageProxy(image, None, Store(question["chunk"]), None)
    refusal = None
    try:
        proxy.set_data(io.BytesIO(content), len(content))
    except exception.InvalidImageData as error:
        refusal = str(error)
    found = None if Wrapper.last is None else formats(Wrapper.last)
    return {"found": found, "refusal": refusal, "virtual_size": image.virtual_size}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
