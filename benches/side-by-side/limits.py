"""Upper bounds for the speed of an image server: for writes, the same SQL run by the database's own benchmark, and for reads, hyper with a
constant response of the same size. Each is measured with as many clients as the servers, on the same database, with the same images.

- MariaDB: `mysqlslap`, which sends the statements as text;
- PostgreSQL: `pgbench -M prepared`;
- SQLite: a bare loop of sqlx with the same pragmas, `sqlite.rs` in this folder.
"""

import http.client
import json
import os
import re
import subprocess
import time

from engines import HOME, free_port
from rig import Processes

# The meaning of the placeholders in the statements of a tag's transactions, in order. A comparison of a tag on MariaDB has it twice: by its
# collation, for the index, and by its bytes.
READ = ["image"]
TOUCH = ["now", "image", "false", "deletion"]
INSERT = ["image", "tag", "now", "now", "false", "one", "image", "false", "exactly", "image", "false", "quota"]
DELETE = ["image", "exactly", "false"]
ADDING, REMOVING = [READ, TOUCH, INSERT], [READ, TOUCH, DELETE]
QUOTA = "128"


def build(*names):
    """Builds benchmarks, and returns the paths of their programs."""
    command = ["cargo", "build", "--profile", "bench", "--locked", "--message-format", "json", *(f"--bench={name}" for name in names)]
    out = subprocess.run(command, cwd=HOME, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    return {message["target"]["name"]: message["executable"] for message in messages if message.get("executable")}


def ask(rig, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", rig.glimpse.port)
    connection.request(method, path, headers={"X-Auth-Token": rig.token, "Accept": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status in (200, 204), (method, path, answer.status, body)
    return answer, body


def record(rig, image):
    """The statements with which Glimpse adds and removes a tag, from its own log, so that exactly these are measured."""
    rig.glimpse.start(RUST_LOG="info,sqlx=debug")
    path, log = f"/v2/images/{image}", f"{rig.glimpse.dir}/log"
    ask(rig, "GET", path)
    recorded = []
    for method in ("PUT", "DELETE"):
        at = os.path.getsize(log)
        ask(rig, method, f"{path}/tags/limit")
        with open(log) as file:
            file.seek(at)
            found = re.findall(r'request\{.*db\.statement="((?:[^"\\]|\\.)*)"', file.read())
        statements = [statement.replace("\\n", " ").replace('\\"', '"').strip() for statement in found]
        # Not every engine logs BEGIN and COMMIT, and sqlx asks PostgreSQL for its types.
        recorded.append([statement for statement in statements if re.search(r'["`](images|image_tags)["`]', statement)])
    rig.glimpse.stop()
    return recorded


def write_out(statements, values, words):
    """The statements, with each placeholder replaced by an expression."""
    assert len(statements) == len(values), statements
    written = []
    for statement, names in zip(statements, values):
        words_left = [words[part] for name in names for part in (words["exactly"] if name == "exactly" else [name])]
        assert len(re.findall(r"\?|\$\d+", statement)) == len(words_left), (statement, names)
        written.append(re.sub(r"\?|\$\d+", lambda _: words_left.pop(0), statement))
    return written


class Sql:
    """Adding and removing a tag with the database's own benchmark."""

    words = {"now": None, "image": None, "tag": None, "false": "FALSE", "one": "1", "deletion": "'pending_delete'", "quota": QUOTA, "exactly": ["tag"]}

    def __init__(self, rig, statements, programs):
        self.rig, self.engine, self.programs = rig, rig.engine, programs
        words = {**Sql.words, **self.words}
        self.transactions = [write_out(sent, values, words) for sent, values in zip(statements, (ADDING, REMOVING))]

    def script(self, text):
        path = f"{self.rig.work}/limit.sql"
        with open(path, "w") as file:
            file.write(text)
        return path


class MySqlSlap(Sql):
    words = {"now": "UTC_TIMESTAMP()", "image": "@image", "tag": "@tag", "exactly": ["tag", "tag"]}
    # mysqlslap runs a number of queries, not for a time. The number is derived from the rate of the previous run.
    rate = 100

    def run(self, clients, seconds, images):
        statements = [statement for transaction in self.transactions for statement in ("BEGIN", *transaction, "COMMIT")]
        rounds = max(10, round(self.rate * seconds / 2 / clients))
        # Consecutive connections use different images. A variable has the collation of its connection, and MariaDB would not use the index of
        # a column with a different collation.
        ids = ", ".join(f"'{image}'" for image in images[: 2 * clients])
        variables = f"@image = CONVERT(ELT(1 + CONNECTION_ID() % {len(images[: 2 * clients])}, {ids}) USING utf8mb3), @tag = CONVERT(CONCAT('limit-', CONNECTION_ID()) USING utf8mb3)"
        command = ["mysqlslap", "--no-defaults", "--skip-ssl", "-h", "127.0.0.1", "-P", self.engine.port, "-u", "root", "--create-schema=glimpse", "--no-drop", "--csv",
                   "--delimiter=;", "--query", self.script(";\n".join(statements)), "--concurrency", clients, "--number-of-queries", rounds * clients * len(statements),
                   "--init-command", f"SET {variables}, SESSION tx_isolation = 'READ-COMMITTED'"]
        out = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
        self.rate = 2 * rounds * clients / float(out.split(",")[2])
        return self.rate


class PgBench(Sql):
    words = {"now": "(now() AT TIME ZONE 'UTC')", "image": ":image", "tag": ":tag"}

    def run(self, clients, seconds, images):
        ids = ", ".join(f"'{image}'" for image in images)
        begin = f"\\if :fresh\nSELECT (ARRAY[{ids}])[1 + :client_id % {len(images)}] AS image, 'limit-' || :client_id AS tag \\gset\n\\set fresh false\n\\endif\n"
        statements = [f"{statement};" for transaction in self.transactions for statement in ("BEGIN", *transaction, "COMMIT")]
        command = ["pgbench", "-n", "-M", "prepared", "-h", "127.0.0.1", "-p", self.engine.port, "-U", "postgres", "-c", clients, "-j", min(2, clients),
                   "-T", max(1, round(seconds)), "-D", "fresh=true", "-f", self.script(begin + "\n".join(statements) + "\n"), "glimpse"]
        out = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
        return 2 * float(re.search(r"tps = ([\d.]+) \(without", out)[1])


class Sqlx(Sql):
    words = {"now": "?3", "image": "?1", "tag": "?2"}

    def run(self, clients, seconds, images):
        script = self.script("\n\n".join("\n".join(transaction) for transaction in self.transactions))
        command = [self.programs["sqlite"], f"{self.rig.work}/glimpse.sqlite", script, clients, seconds, ",".join(images)]
        return float(subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout)


SQL = {"mysql": MySqlSlap, "postgres": PgBench, "sqlite": Sqlx}


class Constant:
    """hyper with a constant response: Glimpse's response to a path, with its headers."""

    name = "hyper"

    def __init__(self, rig, program, path):
        answer, body = ask(rig, "GET", path)
        # hyper adds these two itself.
        headers = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in ("date", "content-length")]
        file = f"{rig.work}/answer"
        with open(file, "wb") as out:
            out.write("\n".join([*headers, "", ""]).encode() + body)
        self.port = free_port()
        self.process = subprocess.Popen([program, f"127.0.0.1:{self.port}", file])
        self.processes = Processes([self.process.pid])
        while True:
            try:
                http.client.HTTPConnection("127.0.0.1", self.port).connect()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None, "hyper does not start"
                time.sleep(0.01)

    def stop(self):
        self.process.kill()
        self.process.wait()
