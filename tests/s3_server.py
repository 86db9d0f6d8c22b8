"""Swift with its S3 API in one process, for tests/s3. tests/loaded.py loads and starts it."""

import array
import glob
import os
import sys

import eventlet

eventlet.monkey_patch()

from eventlet import hubs, wsgi
from swift.account.server import AccountController
from swift.common import constraints, storage_policy, utils
from swift.common.ring import RingData
from swift.common.wsgi import ConfigString, SwiftHttpProtocol, loadapp
from swift.container.server import ContainerController
from swift.obj.server import ObjectController

PROXY = """
[DEFAULT]
swift_dir = FOLDER
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk LOGIN copy container_quotas slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
storage_domain = s3.test
[filter:tempauth]
use = egg:swift#tempauth
user_test_glance = secret .admin
user_test_stranger = secret
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = KEYSTONE
auth_url = KEYSTONE
auth_type = password
username = glance
password = secret
project_name = service
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
service_token_roles_required = true
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member, service
[filter:bulk]
use = egg:swift#bulk
[filter:container_quotas]
use = egg:swift#container_quotas
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
# No expirer runs.
allow_async_delete = false
"""


class Silent:
    def write(self, *_):
        pass

    debug = info = write


class Tokens:
    """The tokens of TempAuth, which need a memcached. Swift itself caches nothing here."""

    def __init__(self):
        self.tokens = {}

    def get(self, key, **_):
        return self.tokens.get(key)

    def set(self, key, value, **_):
        if key.startswith("AUTH_/"):
            self.tokens[key] = value

    def delete(self, key, **_):
        self.tokens.pop(key, None)


def configuration(folder):
    """The proxy's configuration, with the users of TempAuth or of the Keystone that the folder names."""
    with open(os.path.join(folder, "keystone")) as file:
        keystone = file.read().strip()
    login = "s3api tempauth"
    if keystone:
        login = "authtoken keystoneauth"
        # The middleware is installed beside Keystone.
        services = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../target/test-services")
        sys.path += glob.glob(os.path.join(services, "lib/python3*/site-packages"))
    return PROXY.replace("FOLDER", folder).replace("LOGIN", login).replace("KEYSTONE", keystone)


def serve(at, application):
    listener = eventlet.listen(("127.0.0.1", at), backlog=500)
    return listener, lambda: wsgi.server(listener, application, Silent(), protocol=SwiftHttpProtocol, log_output=False)


def start(folder, port):
    """Starts all servers on the data in the folder, and returns what serves requests."""
    # The loop of events of the process that has loaded this is not shared.
    hubs.use_hub()
    utils.SWIFT_CONF_FILE = constraints.SWIFT_CONF_FILE = os.path.join(folder, "swift.conf")
    with open(utils.SWIFT_CONF_FILE, "w") as file:
        file.write("[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = only\ndefault = yes\n")
    utils.validate_hash_conf()
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()
    os.makedirs(os.path.join(folder, "devices/disk"), exist_ok=True)
    settings = {
        "devices": os.path.join(folder, "devices"),
        "mount_check": "false",
        "swift_dir": folder,
        "recon_cache_path": folder,
        "log_level": "ERROR",
        "fallocate_reserve": "0",
    }
    for kind, make in [("account", AccountController), ("container", ContainerController), ("object", ObjectController)]:
        listener, run = serve(0, make(dict(settings)))
        at = listener.getsockname()[1]
        disk = {"id": 0, "region": 1, "zone": 1, "device": "disk", "weight": 1.0, "meta": ""}
        disk |= {"ip": "127.0.0.1", "port": at, "replication_ip": "127.0.0.1", "replication_port": at}
        RingData([array.array("H", [0, 0])], [disk], 31).save(os.path.join(folder, f"{kind}.ring.gz"))
        eventlet.spawn(run)
    swift = loadapp(ConfigString(configuration(folder)))
    tokens = Tokens()

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        environ["swift.cache"] = tokens
        if path == "/forget-tokens":
            tokens.tokens.clear()
            start_response("204 No Content", [])
            return []
        for prefix, account in [("/bucket/", "AUTH_test/"), ("/account/", "")]:
            if path.startswith(prefix):
                environ["PATH_INFO"] = "/v1/" + account + path.removeprefix(prefix)
                environ["swift.authorize_override"] = True
                # Shows access control lists.
                environ["swift_owner"] = True
        return swift(environ, start_response)

    return serve(port, application)[1]
