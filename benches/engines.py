"""Database engines for benchmarks: each can be started, filled with images, queried, and asked for its query plans."""

import os
import re
import socket
import sqlite3
import subprocess
import time

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A tenth each of the images are public, shared and community; the others are private. A tenth belongs to one project, p1, with which 90
# images of other projects are shared; each other project owns a thousandth. Half of the images have the tag half and the name common.
# 100 images each (or fewer, if there are not enough) have the names n0, n1 and so on; three have the tag rare. One in fifty is deleted.
# The order of creation differs from the order of the ids.
IMAGES = """
INSERT INTO images (id, name, size, status, created_at, updated_at, deleted, disk_format, container_format, owner, min_disk,
                    min_ram, protected, visibility, os_hidden)
SELECT {id}, CASE WHEN n % 2 = 0 THEN 'common' ELSE {name} END, n, 'active', {time}, {time}, CASE WHEN n % 50 = 49 THEN {true} ELSE {false} END,
       'qcow2', 'bare', CASE WHEN n % 10 = 3 THEN '{own}' ELSE {project} END, 0, 0, {false},
       {visibility}, {false}
FROM {numbers}
"""
VISIBILITY = """CASE (n / 10) % 10 WHEN 0 THEN 'public' WHEN 1 THEN 'community' WHEN 2 THEN 'shared' ELSE 'private' END"""
TAGS = """
INSERT INTO image_tags (image_id, value, created_at, deleted)
SELECT {id}, CASE t WHEN 0 THEN CASE WHEN (n / 20) % 2 = 0 THEN 'half' ELSE 'other' END
                  WHEN 1 THEN {tag}
                  ELSE CASE WHEN n IN (20, {images} / 2 + 10, {images} - 40) THEN 'rare' ELSE {kind} END END,
       '2020-01-01 00:00:00', {false}
FROM {numbers}, {three} WHERE n % 50 <> 49
"""
PROPERTIES = """
INSERT INTO image_properties (image_id, name, value, created_at, deleted)
SELECT {id}, {property}, {value}, '2020-01-01 00:00:00', {false}
FROM {numbers}, {eight} WHERE n % 50 <> 49
"""
MEMBERS = """
INSERT INTO image_members (image_id, member, can_share, created_at, deleted, status)
SELECT {id}, CASE WHEN n < 1000 AND n % 10 <> 3 THEN '{own}' ELSE {other} END, {false}, '2020-01-01 00:00:00', {false}, 'accepted'
FROM {numbers} WHERE (n / 10) % 10 = 2
"""

# The row that a Glance leaves of a deleted tag.
DELETED_TAGS = """
INSERT INTO image_tags (image_id, value, created_at, deleted, deleted_at)
SELECT '{image}', {value}, '2020-01-01 00:00:00', {true}, '2020-01-01 00:00:00'
FROM {numbers}
"""


class Sqlite:
    name = "SQLite"

    def __init__(self, work, databases):
        self.work = work

    def url(self, database):
        return f"sqlite:///{self.work}/{database}.sqlite"

    def fill(self, database, images, own="p1"):
        db = sqlite3.connect(f"{self.work}/{database}.sqlite")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -1000000")
        count = lambda n: f"(WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < {n} - 1) SELECT x AS {{}} FROM c)"
        words = dict(
            id="printf('00000000-0000-4000-8000-%012x', n)", time=f"strftime('%Y-%m-%d %H:%M:%f000', '2020-01-01', '+' || ((n * 7919) % {images}) || ' minutes')",
            false="0", true="1", numbers=count(images).format("n"), three=count(3).format("t"), eight=count(8).format("p"),
            name=f"'n' || (n % {max(images // 200, 10)})", project="'q' || (n % 1000)", visibility=VISIBILITY, tag="'t' || (n % 1000)",
            kind="'u' || (n % 7)", property="'property' || p", value="'value' || ((n * 31 + p) % 100)", other="'q' || (n % 997)", images=images, own=own,
        )
        for statement in (IMAGES, TAGS, PROPERTIES, MEMBERS):
            db.execute(statement.format(**words))
            db.commit()
        db.close()

    def leave_deleted_tags(self, database, image, count):
        db = sqlite3.connect(f"{self.work}/{database}.sqlite", timeout=60)
        numbers = f"(WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < {count} - 1) SELECT x AS n FROM c)"
        db.execute(DELETED_TAGS.format(image=image, value="'bench-' || (n % 8)", true="1", numbers=numbers).replace("00:00:00'", "00:00:00.000000'"))
        db.commit()
        db.close()

    def plans(self, server, pages):
        db = sqlite3.connect(f"{self.work}/many.sqlite")
        for title, path, token in pages:
            server.get(path, token)
            # The statement that finds the page; others read a marker, count, or read the images that were found.
            statement = next(statement for statement in server.statements() if "ORDER BY" in statement)
            values = [0] * statement.count("?")
            yield title, [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + statement, values)]

    def stop(self):
        pass


class Server:
    def __init__(self, engine, work):
        self.work = work
        self.dir = f"{work}/{engine}"
        self.engine = engine
        self.port = free_port()
        script("create", engine, self.dir)
        with open(f"{work}/url", "w") as out:
            subprocess.run([f"{HOME}/tests/database", "start", engine, self.dir, str(self.port)], stdout=out, check=True)
        self.base = open(f"{work}/url").read().strip()

    def url(self, database):
        return f"{self.base}/{database}"

    def stop(self):
        script("kill", self.engine, self.dir)


class Postgres(Server):
    name = "PostgreSQL"

    def __init__(self, work, databases):
        super().__init__("postgres", work)
        for database in databases:
            self.sql(f"CREATE DATABASE {database}", "postgres")

    def sql(self, statement, database):
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        subprocess.run(command, input=statement, text=True, check=True, stdout=subprocess.DEVNULL)

    def fill(self, database, images, own="p1"):
        words = dict(
            id="'00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0')", time=f"timestamp '2020-01-01' + interval '1 minute' * ((n::bigint * 7919) % {images})",
            false="FALSE", true="TRUE", numbers=f"generate_series(0, {images} - 1) n", three="generate_series(0, 2) t", eight="generate_series(0, 7) p",
            name=f"'n' || (n % {max(images // 200, 10)})", project="'q' || (n % 1000)", visibility=f"({VISIBILITY})::image_visibility", tag="'t' || (n % 1000)",
            kind="'u' || (n % 7)", property="'property' || p", value="'value' || ((n * 31 + p) % 100)", other="'q' || (n % 997)", images=images, own=own,
        )
        for statement in (IMAGES, TAGS, PROPERTIES, MEMBERS):
            # The rows are consistent; skipping the checks of foreign keys takes a fraction of the time.
            self.sql("SET session_replication_role = replica;" + statement.format(**words).replace("'2020-01-01 00:00:00'", "timestamp '2020-01-01'"), database)
        self.sql("VACUUM ANALYZE", database)

    def leave_deleted_tags(self, database, image, count):
        words = dict(image=image, value="'bench-' || (n % 8)", true="TRUE", numbers=f"generate_series(1, {count}) n")
        self.sql(DELETED_TAGS.format(**words).replace("'2020", "timestamp '2020"), database)

    def plans(self, server, pages):
        self.sql("""ALTER DATABASE many SET session_preload_libraries = 'auto_explain';
                    ALTER DATABASE many SET auto_explain.log_min_duration = 0;
                    ALTER DATABASE many SET auto_explain.log_analyze = on;
                    ALTER DATABASE many SET auto_explain.log_timing = off""", "postgres")
        server.restart()
        for title, path, token in pages:
            at = os.path.getsize(f"{self.dir}/log")
            server.get(path, token)
            time.sleep(0.5)
            with open(f"{self.dir}/log") as log:
                log.seek(at)
                plans = log.read().split(" LOG:  duration: ")[1:]
            plan = [plan for plan in plans if "ORDER BY" in plan][-1]
            lines = plan.split("\n")
            start = next(n for n, line in enumerate(lines) if re.search(r"cost=", line))
            yield title, [re.sub(r"\(cost=\S+ rows=(\d+) width=\d+\)", r"", line).rstrip()[1:] for line in lines[start:] if line.startswith("\t")]


class MariaDb(Server):
    name = "MariaDB"

    def __init__(self, work, databases):
        super().__init__("mysql", work)
        self.sql("SET GLOBAL innodb_buffer_pool_size = 2147483648", "mysql")
        for database in databases:
            self.sql(f"CREATE DATABASE {database} CHARACTER SET utf8mb3", "mysql")

    def sql(self, statement, database):
        command = ["mariadb", "--no-defaults", "--skip-ssl", "--default-character-set=utf8mb4", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root", "-N", "-B", "-r", database]
        return subprocess.run(command, input=statement, text=True, check=True, stdout=subprocess.PIPE).stdout

    def fill(self, database, images, own="p1"):
        words = dict(
            id="CONCAT('00000000-0000-4000-8000-', LPAD(LOWER(HEX(n)), 12, '0'))", time=f"'2020-01-01' + INTERVAL ((n * 7919) % {images}) MINUTE",
            false="FALSE", true="TRUE", numbers=f"(SELECT seq AS n FROM seq_0_to_{images - 1}) numbers", three="(SELECT seq AS t FROM seq_0_to_2) three",
            eight="(SELECT seq AS p FROM seq_0_to_7) eight", name=f"CONCAT('n', n % {max(images // 200, 10)})", project="CONCAT('q', n % 1000)",
            visibility=VISIBILITY.replace("/", "DIV"), tag="CONCAT('t', n % 1000)", kind="CONCAT('u', n % 7)", property="CONCAT('property', p)",
            value="CONCAT('value', (n * 31 + p) % 100)", other="CONCAT('q', n % 997)", images=images, own=own,
        )
        for statement in (IMAGES, TAGS.replace("/", "DIV"), PROPERTIES, MEMBERS.replace("/", "DIV")):
            self.sql("SET foreign_key_checks = 0, unique_checks = 0;" + statement.format(**words), database)
        self.sql("ANALYZE TABLE images, image_tags, image_properties, image_members", database)

    def leave_deleted_tags(self, database, image, count):
        words = dict(image=image, value="CONCAT('bench-', n % 8)", true="TRUE", numbers=f"(SELECT seq AS n FROM seq_1_to_{count}) numbers")
        self.sql(DELETED_TAGS.format(**words), database)

    def plans(self, server, pages):
        self.sql("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = 1", "mysql")
        for title, path, token in pages:
            self.sql("TRUNCATE mysql.general_log", "mysql")
            server.get(path, token)
            log = self.sql("SELECT REPLACE(argument, '\\n', ' ') FROM mysql.general_log WHERE command_type = 'Execute' ORDER BY event_time", "mysql")
            statement = [line for line in log.splitlines() if "ORDER BY" in line][-1]
            rows = self.sql("EXPLAIN " + statement, "many").splitlines()
            names = ("id", "select", "table", "type", "possible", "key", "length", "ref", "rows", "extra")
            rows = [dict(zip(names, row.split("\t"))) for row in rows]
            yield title, ["{id} {select}: {table}, {type}, key {key}, rows {rows}, {extra}".format(**row) for row in rows]


def script(command, engine, folder):
    subprocess.run([f"{HOME}/tests/database", command, engine, folder], check=True, stdout=subprocess.DEVNULL)


RETURNED = set()


def free_port():
    """A port without a listener, which is returned only once: a server may be started much later."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in RETURNED:
            RETURNED.add(port)
            return port


ENGINES = {"sqlite": Sqlite, "postgres": Postgres, "mysql": MariaDb}
