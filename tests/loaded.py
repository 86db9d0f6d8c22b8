#!/usr/bin/env python3
"""Runs programs for tests, each in a fork of a process that has it loaded: loading them takes seconds.

    PYTHON -IS tests/loaded.py PROGRAM ARGUMENT…

PYTHON is that of the environment in which the program is installed. The programs are

    openstack, glance            the clients (in target/test-clients)
    glance-manage                Glance's command (in target/test-services, as the others)
    glance-cache-pruner, glance-cache-cleaner
    glance-api FOLDER PORT       start the service that is configured in the folder (tests/keystone, tests/glance), wait until it
    keystone-api FOLDER PORT     listens, and print its process id; what it prints itself is in FOLDER/server.log
    s3-api FOLDER PORT           likewise, for Swift on the data in the folder (in target/test-swift, tests/s3)

A program has the arguments, the environment, the folder and the open files of this process, which ends with its exit code. The first
call starts the process that has the program loaded. That process ends when it has had nothing to do for five minutes; its Unix socket and its
log are in target/.
"""

import json
import os
import socket
import sys
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.join(HERE, "..", "target")
# Seconds.
IDLE = 300
# The programs by the process that loads them, and the file with the releases.
SERVICES = "constraints-services.txt"
LOADED = {
    "clients": (["openstack", "glance"], "requirements.txt"),
    "manage": (["glance-manage"], SERVICES),
    "glance": (["glance-api", "glance-cache-pruner", "glance-cache-cleaner"], SERVICES),
    "keystone": (["keystone-api"], SERVICES),
    "s3": (["s3-api"], "constraints-s3.txt"),
}
# Requests that a service answers at a time.
THREADS = {"keystone": 8, "glance": 1}


def run(command):
    """Runs a program in a fork of the process that has it loaded, and returns its exit code."""
    group = next(group for group, (programs, _) in LOADED.items() if command[0] in programs)
    # A client that would upload its input must see that the input is closed.
    files = [number for number, file in enumerate((sys.stdin, sys.stdout, sys.stderr)) if file is not None]
    request = {"command": command, "files": files, "environment": dict(os.environ), "folder": os.getcwd()}
    # The path of a socket must be short.
    os.chdir(TARGET)
    answer = b""
    # A process that ends may have accepted a connection that it does not answer.
    for _ in range(2):
        with connection(group) or start(group) as loaded:
            try:
                socket.send_fds(loaded, [b"\n"], files)
                loaded.sendall(json.dumps(request).encode())
                loaded.shutdown(socket.SHUT_WR)
                while part := loaded.recv(10):
                    answer += part
            except ConnectionError:
                pass
        if answer:
            break
    if not answer[1:]:
        sys.exit(f"tests/loaded.py: {command[0]} ended without an exit code")
    return int(answer[1:])


def socket_of(group):
    """The name of a socket. Other releases of the programs, and of this one, have other names."""
    check = 0
    for path in (__file__, os.path.join(HERE, LOADED[group][1])):
        with open(path, "rb") as file:
            check = zlib.crc32(file.read(), check)
    return f"test-{group}.{check:08x}.socket"


def connection(group):
    """A connection to the process that has these programs loaded, or none."""
    loaded = socket.socket(socket.AF_UNIX)
    try:
        loaded.connect(socket_of(group))
        return loaded
    except OSError:
        loaded.close()
        return None


def locked(group):
    """A file that only one process at a time has locked, until it is closed."""
    import fcntl

    file = open(f"test-{group}.loaded.lock", "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def start(group):
    """Starts the process that loads these programs, unless it has been started meanwhile, and returns a connection to it."""
    import subprocess

    with locked(group):
        if loaded := connection(group):
            return loaded
        name = socket_of(group)
        if os.path.exists(name):
            os.unlink(name)
        with socket.socket(socket.AF_UNIX) as listener, open(f"test-{group}.loaded.log", "a") as log:
            listener.bind(name)
            listener.listen(100)
            command = [sys.executable, *([] if group == "clients" else ["-W", "ignore"]), __file__, "load", group]
            # A program has the environment of its own call.
            environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.getcwd()}
            subprocess.Popen(command, stdin=listener, stdout=log, stderr=log, env=environment, start_new_session=True)
            return connection(group)


def load_clients():
    import importlib.metadata

    # openstack takes its own name from here, once.
    sys.argv = ["openstack"]

    import glanceclient.shell
    import glanceclient.v2.shell  # noqa: F401
    import openstack.config.loader
    import openstackclient.shell

    for entry in importlib.metadata.distribution("python-openstackclient").entry_points:
        if entry.group.startswith("openstack."):
            entry.load()
    # This finds the plug-ins for logins, and their options.
    openstackclient.shell.OpenStackShell()

    def run_openstack():
        # When it is loaded, it notes the folders in which it looks for clouds.yaml.
        importlib.reload(openstack.config.loader)
        return openstackclient.shell.main()

    return {"glance": glanceclient.shell.main, "openstack": run_openstack}


def load_manage():
    import pymysql  # noqa: F401
    import psycopg2  # noqa: F401
    from glance.cmd import manage

    return {"glance-manage": manage.main}


def load_keystone():
    import contextlib
    import importlib.metadata

    import keystone.server.wsgi  # noqa: F401
    import sqlalchemy.orm
    import stevedore

    # Its plug-ins, without those that need packages that are not installed.
    for entry in importlib.metadata.distribution("keystone").entry_points:
        if entry.group.startswith("keystone."):
            with contextlib.suppress(ImportError):
                entry.load()
    stevedore.ExtensionManager("keystone.server_middleware")
    sqlalchemy.orm.configure_mappers()

    def application(folder):
        sys.path.insert(0, folder)
        from application import application

        return application

    return {"keystone-api": lambda: start_service(wsgi_service("keystone", application))}


def load_glance():
    import importlib

    import sqlalchemy.orm

    for module in """
        glance.common.wsgi_app glance.api.v2.router glance.api.versions glance.api.middleware.context
        glance.api.middleware.version_negotiation glance.db.sqlalchemy.api glance.db.simple.api
        glance_store._drivers.filesystem glance_store._drivers.http oslo_middleware.healthcheck pymysql psycopg2
    """.split():
        importlib.import_module(module)
    sqlalchemy.orm.configure_mappers()
    check_each_schema_once()

    def application(_):
        from glance.common import wsgi_app

        return wsgi_app.init_app()

    def tool(name):
        # It changes options when it is loaded.
        return lambda: importlib.import_module(f"glance.cmd.cache_{name}").main()

    return {
        "glance-api": lambda: start_service(wsgi_service("glance", application)),
        "glance-cache-pruner": tool("pruner"), "glance-cache-cleaner": tool("cleaner"),
    }


def load_s3():
    # No folder of bytecode beside the tests.
    sys.dont_write_bytecode = True
    import s3_server

    return {"s3-api": lambda: start_service(s3_server.start)}


def check_each_schema_once():
    """For each request, Glance checks that its own schema is one, which takes half of the time."""
    import jsonschema

    validator = jsonschema.validators.validator_for({})
    check, valid = validator.check_schema, set()

    def check_schema(schema, *arguments, **more):
        text = json.dumps(schema)
        if text not in valid:
            check(schema, *arguments, **more)
            valid.add(text)

    validator.check_schema = staticmethod(check_schema)


def serve_all(group):
    """Loads programs, and runs them in forks until there is nothing to do."""
    import gc
    import signal
    # Swift replaces what waits.
    from select import select
    from socket import socket as Socket

    listener = Socket(fileno=os.dup(0))
    programs = globals()[f"load_{group}"]()
    # What is loaded stays in memory that the forks share.
    gc.collect()
    gc.freeze()
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if not select([listener], [], [], IDLE)[0]:
            with locked(group):
                if not select([listener], [], [], 0)[0]:
                    os.unlink(socket_of(group))
                    return
        client = Socket(fileno=listener._accept()[0])
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(client, programs)
        client.close()


def answer(client, programs):
    """Runs the requested program in this process, sends its exit code, and ends."""
    client.sendall(b"+")
    message, files, _, _ = socket.recv_fds(client, 1 << 16, 3)
    while part := client.recv(1 << 16):
        message += part
    request = json.loads(message)
    for number in range(3):
        os.close(number)
    for file, number in zip(files, request["files"]):
        os.dup2(file, number)
        os.close(file)
    # As at the start of a process.
    text = {"encoding": sys.stdout.encoding, "closefd": False}
    strict = sys.stdout.errors
    sys.stdin = open(0, errors=strict, **text) if 0 in request["files"] else None
    sys.stdout = sys.__stdout__ = open(1, "w", errors=strict, **text)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", **text)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["command"]
    code = exit_code(programs[sys.argv[0]])
    sys.stdout.flush()
    if callable(code):
        client.sendall(b"0")
        client.close()
        code()
        os._exit(0)
    client.sendall(str(code).encode())
    os._exit(code)


def exit_code(main):
    """The exit code of a program with this main function, or what a service that has started does next."""
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code or 0


def start_service(start):
    """Starts a service in this process, prints the process id, and returns what serves requests."""
    folder, port = sys.argv[1:]
    os.setsid()
    caller = os.dup(1)
    output = os.open(f"{folder}/server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(file, number)
    serve = start(folder, int(port))
    os.write(caller, f"{os.getpid()}\n".encode())
    os.close(caller)
    return serve


def wsgi_service(name, application):
    """What starts a service with an application that is made for its folder."""

    def start(folder, port):
        server = make_server(port, THREADS[name])
        os.environ[f"OS_{name.upper()}_CONFIG_DIR"] = folder
        sys.argv = [name]
        server.set_app(application(folder))
        return server.serve_forever

    return start


def make_server(port, threads):
    """A server that answers each request on a connection of its own."""
    import concurrent.futures
    import contextlib
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


if sys.argv[1] == "load":
    os.chdir(TARGET)
    serve_all(sys.argv[2])
else:
    sys.exit(run(sys.argv[1:]))
