"""A Keystone, a Glance and a Glimpse on one database server, for benchmarks that send both the same requests; and the cost of their processes."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request

from engines import ENGINES, HOME, free_port

SERVICES = f"{HOME}/target/test-services"
CLIENTS = f"{HOME}/target/test-clients/bin"
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024

# As operators write it, for both servers.
AUTHTOKEN = """
[paste_deploy]
flavor = {flavor}
[keystone_authtoken]
auth_url = {keystone}
www_authenticate_uri = {keystone}
auth_type = password
username = glance
password = secret
user_domain_name = Default
project_name = service
project_domain_name = Default
service_type = image
"""


def report(text):
    print(text, flush=True)


def run(*command, **more):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **more)


class Processes:
    """Processes by their ids, as the system accounts for them."""

    def __init__(self, pids):
        self.pids = list(pids)

    def cpu(self):
        """CPU seconds, including those of children that have ended."""
        total = 0
        for pid in self.pids:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                total += sum(int(ticks) for ticks in fields[11:15])
            except (FileNotFoundError, ProcessLookupError):
                pass
        return total / TICKS

    def rss(self):
        """Resident bytes."""
        total = 0
        for pid in self.pids:
            try:
                with open(f"/proc/{pid}/status") as file:
                    found = re.search(r"VmRSS:\s+(\d+) kB", file.read())
                total += int(found[1]) * 1024 if found else 0
            except (FileNotFoundError, ProcessLookupError):
                pass
        return total

    def peak(self):
        """The sum of the peak resident bytes of each process."""
        total = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/status") as file:
                total += int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024
        return total


def group(pid):
    found = subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True).stdout.split()
    return Processes(int(pid) for pid in found)


def tree(pid):
    pids, new = [], [int(pid)]
    while new:
        pids += new
        found = subprocess.run(["pgrep", "-P", ",".join(map(str, new))], capture_output=True, text=True).stdout.split()
        new = [int(pid) for pid in found]
    return Processes(pids)


def exec_time(pid):
    """The start time of a process, on the clock CLOCK_BOOTTIME."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19]) / TICKS


def answers(url):
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


class Keystone:
    def __init__(self, work):
        self.dir = f"{work}/keystone"
        run(f"{HOME}/tests/keystone", "create", self.dir)
        with open(f"{work}/keystone.url", "w") as out:
            subprocess.run([f"{HOME}/tests/keystone", "start", self.dir, str(free_port())], stdout=out, check=True)
        self.url = open(f"{work}/keystone.url").read().strip()

    def login(self, user, project):
        """A token, and the project's id."""
        domain = {"id": "default"}
        identity = {"methods": ["password"], "password": {"user": {"name": user, "password": "secret", "domain": domain}}}
        body = {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": domain}}}}
        request = urllib.request.Request(f"{self.url}/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.headers["X-Subject-Token"], json.load(answer)["token"]["project"]["id"]

    def add_service(self, service_type, url):
        """Adds a service to the catalog."""
        token = self.login("admin", "admin")[0]

        def create(kind, body):
            headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.url}/{kind}s", json.dumps({kind: body}).encode(), headers)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return json.load(answer)[kind]["id"]

        service = create("service", {"type": service_type, "name": service_type})
        create("endpoint", {"service_id": service, "interface": "public", "region_id": "RegionOne", "url": url})

    def environment(self, user, project, images):
        """The environment variables of a command-line user."""
        return {
            "PATH": os.environ["PATH"], "OS_AUTH_URL": self.url, "OS_USERNAME": user, "OS_PASSWORD": "secret", "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_NAME": project, "OS_PROJECT_DOMAIN_ID": "default", "OS_IDENTITY_API_VERSION": "3", "OS_IMAGE_ENDPOINT_OVERRIDE": images,
            "no_proxy": "*",
        }

    def stop(self):
        run(f"{HOME}/tests/keystone", "kill", self.dir)


class Swift:
    """OpenStack Swift in one process, with the users of a Keystone."""

    def __init__(self, work, keystone):
        self.dir, port = f"{work}/swift", free_port()
        run(f"{HOME}/tests/s3", "start", self.dir, port, keystone.url)
        self.pid = int(open(f"{self.dir}/pid").read())
        self.processes = Processes([self.pid])
        project = keystone.login("glance", "service")[1]
        account = f"http://127.0.0.1:{port}/account/AUTH_{project}/images"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(urllib.request.Request(account, method="PUT")):
            pass
        # For both servers.
        self.options = (
            f"[DEFAULT]\nenabled_backends = swift:swift\n[glance_store]\ndefault_backend = swift\n[swift]\nswift_store_container = images\n"
            f"swift_store_auth_address = {keystone.url}\nswift_store_user = service:glance\nswift_store_key = secret\n"
            f"swift_store_retry_get_count = 1\n"
        )
        keystone.add_service("object-store", f"http://127.0.0.1:{port}/v1/AUTH_$(project_id)s")

    def stop(self):
        run(f"{HOME}/tests/s3", "kill", self.dir)


class S3:
    """The same server with its S3 API and users of its own."""

    def __init__(self, work, _):
        self.dir, self.port = f"{work}/s3", free_port()
        run(f"{HOME}/tests/s3", "start", self.dir, self.port)
        self.processes = Processes([int(open(f"{self.dir}/pid").read())])
        bucket = urllib.request.Request(f"http://127.0.0.1:{self.port}/bucket/images", method="PUT")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(bucket):
            pass
        self.options = self.at(self.port)

    def at(self, port):
        """The options of a store on this server, for both image services, at its own port or at that of a relay."""
        return (
            f"[DEFAULT]\nenabled_backends = s3:s3\n[glance_store]\ndefault_backend = s3\n[s3]\ns3_store_host = http://127.0.0.1:{port}\n"
            f"s3_store_access_key = test:glance\ns3_store_secret_key = secret\ns3_store_bucket = images\n"
        )

    def stop(self):
        run(f"{HOME}/tests/s3", "kill", self.dir)


class Glance:
    """A real Glance: uWSGI with two processes."""

    name = "Glance"
    flavor = "keystone"

    def more(self):
        """Additional configuration."""
        return ""

    def __init__(self, work, url, keystone, more=""):
        self.dir, self.url, self.port = f"{work}/{self.name.replace(' ', '-')}", url, free_port()
        os.makedirs(self.dir, exist_ok=True)
        with open(f"{self.dir}/more.conf", "w") as config:
            config.write(self.more() + more + AUTHTOKEN.format(keystone=keystone.url, flavor=self.flavor))
        run(f"{HOME}/tests/glance", "sync", url, stderr=open(f"{self.dir}/sync.log", "w"))
        self.processes = None

    def start(self):
        """Starts it. Returns the seconds from exec to the first 200."""
        if os.path.exists(f"{self.dir}/pid"):
            os.unlink(f"{self.dir}/pid")
        script = subprocess.Popen([f"{HOME}/tests/glance", "start", self.dir, self.url, str(self.port), "2"], stdout=subprocess.DEVNULL)
        while not answers(f"http://127.0.0.1:{self.port}/healthcheck"):
            assert script.poll() in (None, 0), "Glance does not start"
            time.sleep(0.002)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        script.wait()
        pid = int(open(f"{self.dir}/pid").read())
        self.processes = group(pid)
        return now - exec_time(pid)

    def stop(self):
        if self.processes:
            run(f"{HOME}/tests/glance", "kill", self.dir)
            self.processes = None


class Glimpse:
    """Glimpse as `cargo build --release` builds it."""

    name = "Glimpse"
    flavor = "keystone"

    def more(self):
        """Additional configuration."""
        return ""

    def __init__(self, work, url, keystone, program, more=""):
        self.dir, self.url, self.port, self.program = f"{work}/{self.name.replace(' ', '-')}", url, free_port(), program
        os.makedirs(f"{self.dir}/images", exist_ok=True)
        self.config = f"{self.dir}/glance-api.conf"
        with open(self.config, "w") as config:
            config.write(f"[DEFAULT]\nbind_host = 127.0.0.1\nbind_port = {self.port}\nlog_file = {self.dir}/log\nenabled_backends = fs:file\n")
            config.write(f"[glance_store]\ndefault_backend = fs\n[fs]\nfilesystem_store_datadir = {self.dir}/images\n")
            config.write(f"[database]\nconnection = {url}\n" + self.more() + more + AUTHTOKEN.format(keystone=keystone.url, flavor=self.flavor))
        run(program, "--config-file", self.config, "db", "sync", stderr=open(f"{self.dir}/sync.log", "w"))
        self.process = None

    def start(self, **environment):
        """Starts it. Returns the seconds from exec to the first 200."""
        command = [self.program, "--config-file", self.config, "serve", "--data-dir", f"{self.dir}/data"]
        start = time.monotonic()
        out = open(f"{self.dir}/err", "w")
        self.process = subprocess.Popen(command, stderr=out, stdout=out, env={"OS_GLANCE_CONFIG_DIR": "/dev/null", **environment})
        while not answers(f"http://127.0.0.1:{self.port}/healthcheck"):
            assert self.process.poll() is None, f"Glimpse does not start: {open(f'{self.dir}/err').read()}"
            time.sleep(0.001)
        assert self.process.poll() is None, "something else answers at Glimpse's port"
        self.processes = Processes([self.process.pid])
        return time.monotonic() - start

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Rig:
    """All servers, in a temporary folder that stop() removes. `store` makes a store for both image services."""

    def __init__(self, engine, program, store=None):
        self.work = tempfile.mkdtemp(prefix="glimpse-bench.")
        os.chmod(self.work, 0o755)
        self.parts = []
        self.keystone = self.add(Keystone(self.work))
        self.token, self.project = self.keystone.login("member1", "p1")
        self.engine = self.add(ENGINES[engine](self.work, ["glance", "glimpse"]))
        self.store = self.add(store(self.work, self.keystone)) if store else None
        more = self.store.options if store else ""
        self.glance = self.add(Glance(self.work, self.sqlalchemy(self.engine.url("glance")), self.keystone, more))
        self.glimpse = self.add(Glimpse(self.work, self.engine.url("glimpse"), self.keystone, program, more))

    def sqlalchemy(self, url):
        return url

    def add(self, part):
        self.parts.append(part)
        return part

    def database_processes(self):
        folder = getattr(self.engine, "dir", None)
        if not folder:
            return Processes([])
        for file in (f"{folder}/data/postmaster.pid", f"{folder}/pid"):
            if os.path.exists(file):
                return tree(open(file).readline().strip())
        return Processes([])

    def stop(self):
        for part in reversed(self.parts):
            part.stop()
        shutil.rmtree(self.work, ignore_errors=True)


def release():
    """Builds the program, and returns its path."""
    run("cargo", "build", "--release", "--locked", cwd=HOME)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{HOME}/target"), "release/glimpse")


def versions(engine, program):
    def first(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip().split("\n")[0]

    packages = subprocess.run([f"{SERVICES}/bin/pip", "list", "--format=freeze", "--disable-pip-version-check"], capture_output=True, text=True).stdout
    found = dict(line.split("==") for line in packages.split("\n") if "==" in line)
    names = {name.lower(): version for name, version in found.items()}
    database = {"sqlite": "SQLite", "postgres": first("psql", "--version"), "mysql": first("mariadb", "--version")}[engine]
    commit = first("git", "-C", HOME, "rev-parse", "--short", "HEAD")
    return f"{first(program, '--version')} ({commit}), glance {names.get('glance')}, uWSGI {names.get('uwsgi')}, keystone {names.get('keystone')}, {database}"


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal:\s+(\d+)", file.read())[1]) // 1024 // 1024
    return f"{os.cpu_count()} × {model[1].strip() if model else 'CPU'}, {memory + 1} GiB, Linux {os.uname().release}"
