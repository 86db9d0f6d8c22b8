"""Horizon from PyPI for tests, on loopback and on a free port: target/test-horizon/bin/python tests/horizon_server.py KEYSTONE_URL

The file is also its settings module. Sessions are kept in memory.
"""

import os
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "horizon_server"
    os.environ["TEST_KEYSTONE_URL"] = sys.argv[1]
    from django.core.wsgi import get_wsgi_application

    class Handler(WSGIRequestHandler):
        def log_message(self, *_):
            pass

    server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Handler)
    print(f"listens on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
else:
    from openstack_dashboard.settings import *  # noqa: F403

    SECRET_KEY = os.urandom(32).hex()
    DEBUG = False
    ALLOWED_HOSTS = ["127.0.0.1"]
    COMPRESS_ENABLED = False
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    OPENSTACK_KEYSTONE_URL = os.environ["TEST_KEYSTONE_URL"]
    OPENSTACK_API_VERSIONS = {"identity": 3, "image": 2}
