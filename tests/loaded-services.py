"""Starts Keystone and Glance for tests/keystone and tests/glance, each in a fork of a process that has it loaded, which takes seconds.

    target/test-services/bin/python tests/loaded-services.py start keystone|glance FOLDER PORT

starts the service that is configured in the folder, waits until it responds, and prints its process id. What it prints itself is in
FOLDER/server.log. The first call starts the process that has the service loaded. That process ends when it has had nothing to do for
a minute; its Unix socket and its log are in target/.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent / "target"
# Seconds.
IDLE = 60
# Requests that a service answers at a time.
THREADS = {"keystone": 8, "glance": 1}


def socket_of(service):
    """The name of a socket. Other releases of the services, and of this program, have other names."""
    parts = [pathlib.Path(__file__).read_bytes(), (HERE / "constraints-services.txt").read_bytes()]
    return f"test-{service}.{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}.socket"


@contextlib.contextmanager
def locked(service):
    with open(f"test-{service}.loaded.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(service, folder, port):
    # A process that ends may have accepted a connection that it does not answer.
    for _ in range(2):
        said = ask(service, f"{port} {folder}\n".encode())
        if said:
            break
    if not said.isdigit():
        sys.exit(f"tests/{service}: the service in {folder} does not start: {said}")
    print(said)


def ask(service, request):
    """Sends a request to the process that has the service loaded, and returns its answer, or an empty one."""
    loaded = connection(service)
    if loaded is None:
        with locked(service):
            loaded = connection(service) or start_loaded(service)
    with loaded, contextlib.suppress(ConnectionError):
        loaded.sendall(request)
        return loaded.makefile().readline().strip()
    return ""


def connection(service):
    """A connection to the process that has the service loaded, or none."""
    loaded = socket.socket(socket.AF_UNIX)
    try:
        loaded.connect(socket_of(service))
        return loaded
    except OSError:
        loaded.close()
        return None


def start_loaded(service):
    """Starts the process that loads the service, and returns a connection to it."""
    name = socket_of(service)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    with socket.socket(socket.AF_UNIX) as listener, open(f"test-{service}.loaded.log", "a") as log:
        listener.bind(name)
        listener.listen(100)
        command = [sys.executable, "-W", "ignore", __file__, "load", service]
        subprocess.Popen(command, stdin=listener, stdout=log, stderr=log, start_new_session=True)
        return connection(service)


def load_keystone():
    import importlib.metadata

    import keystone.server.wsgi  # noqa: F401
    import stevedore

    # Its plug-ins, without those that need packages that are not installed.
    for entry in importlib.metadata.distribution("keystone").entry_points:
        if entry.group.startswith("keystone."):
            with contextlib.suppress(ImportError):
                entry.load()
    stevedore.ExtensionManager("keystone.server_middleware")


def load_glance():
    import importlib

    for module in """
        glance.common.wsgi_app glance.api.v2.router glance.api.versions glance.api.middleware.context
        glance.api.middleware.version_negotiation glance.db.sqlalchemy.api glance.db.simple.api
        glance_store._drivers.filesystem glance_store._drivers.http oslo_middleware.healthcheck pymysql psycopg2
    """.split():
        importlib.import_module(module)


def serve_all(service):
    """Loads a service, and starts it in forks until there is nothing to do."""
    {"keystone": load_keystone, "glance": load_glance}[service]()
    listener = socket.socket(fileno=os.dup(0))
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if not select.select([listener], [], [], IDLE)[0]:
            with locked(service):
                if not select.select([listener], [], [], 0)[0]:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(socket_of(service))
                    return
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve_one(service, client)
        client.close()


def serve_one(service, client):
    """Runs the service in the folder that the client names, in this process."""
    port, folder = client.makefile().readline().strip().split(" ", 1)
    os.setsid()
    output = os.open(f"{folder}/server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(file, number)
    try:
        server = make_server(int(port), THREADS[service])
        os.environ[f"OS_{service.upper()}_CONFIG_DIR"] = folder
        sys.argv = [service]
        server.set_app(application_in(service, folder))
    except BaseException as error:
        client.sendall(repr(error).replace("\n", " ").encode() + b"\n")
        raise
    client.sendall(f"{os.getpid()}\n".encode())
    client.close()
    server.serve_forever()


def application_in(service, folder):
    if service == "keystone":
        sys.path.insert(0, folder)
        from application import application

        return application
    from glance.common import wsgi_app

    return wsgi_app.init_app()


def make_server(port, threads):
    """A server that answers each request on a connection of its own."""
    import concurrent.futures
    from wsgiref import simple_server

    class Body:
        """The body of a request, which ends where the request ends."""

        def __init__(self, file, headers):
            self.file, self.close = file, file.close
            self.is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
            # Of the current chunk, or of the whole body.
            self.left = 0 if self.is_chunked else int(headers.get("Content-Length") or 0)
            self.is_at_end = not self.is_chunked and self.left == 0

        def read(self, size=-1):
            parts = []
            while size and not self.is_at_end:
                if self.left == 0:
                    self.next_chunk()
                    continue
                part = self.file.read(self.left if size is None or size < 0 else min(size, self.left))
                if not part:
                    raise OSError("the request ends too early")
                parts.append(part)
                self.left -= len(part)
                if size is not None and size > 0:
                    size -= len(part)
                if self.left == 0 and self.is_chunked:
                    self.file.readline()
                elif self.left == 0:
                    self.is_at_end = True
            return b"".join(parts)

        def next_chunk(self):
            self.left = int(self.file.readline().split(b";")[0], 16)
            if self.left == 0:
                while self.file.readline().strip():
                    pass
                self.is_at_end = True

    class Handler(simple_server.WSGIRequestHandler):
        timeout = 60

        def parse_request(self):
            is_valid = super().parse_request()
            if is_valid:
                self.rfile = Body(self.rfile, self.headers)
            return is_valid

        def get_environ(self):
            # A request without a media type has none.
            kind, length = self.headers.get("Content-Type", ""), self.headers.get("Content-Length", "")
            environ = {"REQUEST_URI": self.path, "CONTENT_TYPE": kind, "CONTENT_LENGTH": length}
            return super().get_environ() | environ | {"wsgi.input_terminated": self.rfile.is_chunked}

        def log_message(self, *_):
            pass

    class Server(simple_server.WSGIServer):
        request_queue_size = 100
        pool = concurrent.futures.ThreadPoolExecutor(threads)

        def process_request(self, request, address):
            self.pool.submit(self.answer, request, address)

        def answer(self, request, address):
            try:
                self.finish_request(request, address)
            except Exception:
                self.handle_error(request, address)
            finally:
                # Closing a connection with unread data would discard the response.
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_WR)
                    request.settimeout(1)
                    while request.recv(1 << 16):
                        pass
                request.close()

        def server_bind(self):
            # The inherited one asks for the name of the host.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_name, self.server_port = self.server_address
            self.setup_environ()

    return Server(("127.0.0.1", port), Handler)


# The path of a socket must be short.
os.chdir(TARGET)
if sys.argv[1] == "start":
    start(*sys.argv[2:])
else:
    serve_all(sys.argv[2])
