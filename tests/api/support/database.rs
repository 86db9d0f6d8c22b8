//! Databases for one test each, on the engine under test.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::program;

/// A database engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
    MySql,
}

impl Engine {
    fn of(url: &str) -> Self {
        match url.split_once([':', '+']).map(|(dialect, _)| dialect) {
            Some("sqlite") => Self::Sqlite,
            Some("postgresql") => Self::Postgres,
            Some("mysql") => Self::MySql,
            _ => panic!("{url} is on no engine that is tested"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    /// The engine that this run tests.
    pub(crate) fn under_test() -> Self {
        std::env::var("GLIMPSE_TEST_DATABASE").map_or(Self::Sqlite, |url| Self::of(&url))
    }
}

/// An empty database that no other test uses.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) engine: Engine,
    /// The URL in the form of Glance's configuration.
    pub(crate) url: String,
}

impl Database {
    /// Returns the same database behind a relay on loopback: `pass` relays each connection to the server.
    pub(crate) async fn behind<F>(&self, pass: impl Fn(TcpStream, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (server, name) = self.url.rsplit_once('/').unwrap();
        let (server, port) = server.rsplit_once(':').unwrap();
        let to: u16 = port.parse().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{server}:{}/{name}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass(client, server));
            }
        });
        Self { engine: self.engine, url }
    }

    /// Creates a database on the server that this run tests, or an SQLite file in the given folder.
    pub(crate) async fn create(dir: &Path) -> Self {
        match std::env::var("GLIMPSE_TEST_DATABASE") {
            Ok(server) => Self::create_on(&server).await,
            Err(_) => Self { engine: Engine::Sqlite, url: format!("sqlite:///{}", dir.join("test.sqlite").display()) },
        }
    }

    /// Like [`Self::create`], with the schema. The program creates it once: other SQLite files and PostgreSQL databases are copies.
    pub(crate) async fn synced(dir: &Path) -> Self {
        match std::env::var("GLIMPSE_TEST_DATABASE") {
            Ok(server) if Engine::of(&server) == Engine::Postgres => Self::synced_on_postgres(&server).await,
            Ok(server) => {
                let database = Self::create_on(&server).await;
                database.sync();
                database
            }
            Err(_) => {
                let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("synced.sqlite");
                if modified(&template).is_none_or(|time| time <= program_time()) {
                    let making = Self::create(dir).await;
                    making.sync();
                    let made = template.with_extension(format!("{:x}", rand::random::<u64>()));
                    std::fs::copy(making.path(), &made).unwrap();
                    std::fs::rename(made, template).unwrap();
                    return making;
                }
                let database = Self::create(dir).await;
                std::fs::copy(template, database.path()).unwrap();
                database
            }
        }
    }

    async fn synced_on_postgres(server: &str) -> Self {
        let engine = Engine::Postgres;
        let admin = Self { engine, url: format!("{server}/postgres") };
        let template = format!("synced_{}", program_time().duration_since(UNIX_EPOCH).unwrap().as_nanos());
        for _ in 0..20 {
            let name = new_name();
            if admin.try_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.is_ok() {
                return Self { engine, url: format!("{server}/{name}") };
            }
            // There is none yet, or its first user is still connected.
            let making = Self::create_on(server).await;
            making.sync();
            let (_, name) = making.url.rsplit_once('/').unwrap();
            let _ = admin.try_execute(&format!("ALTER DATABASE {name} RENAME TO {template}")).await;
        }
        panic!("no template {template}");
    }

    /// `glimpse db sync`
    fn sync(&self) {
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(config.path(), format!("[database]\nconnection = {}\n", self.url)).unwrap();
        let output = program().arg("--config-file").arg(config.path()).args(["db", "sync"]).output().unwrap();
        assert!(output.status.success(), "db sync: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The path of an SQLite file.
    fn path(&self) -> &Path {
        Path::new(self.url.strip_prefix("sqlite:///").unwrap())
    }

    async fn create_on(server: &str) -> Self {
        let engine = Engine::of(server);
        let name = new_name();
        let admin = match engine {
            Engine::Postgres => format!("{server}/postgres"),
            _ => format!("{server}/mysql"),
        };
        let options = if engine == Engine::MySql { " CHARACTER SET utf8mb3" } else { "" };
        Self { engine, url: admin }.execute(&format!("CREATE DATABASE {name}{options}")).await;
        Self { engine, url: format!("{server}/{name}") }
    }

    /// The URL in the form of sqlx.
    fn sqlx_url(&self) -> String {
        match self.engine {
            Engine::Sqlite => self.url.replacen("sqlite:///", "sqlite://", 1),
            Engine::Postgres => format!("{}?sslmode=disable", self.url),
            Engine::MySql => format!("{}?ssl-mode=disabled", self.url.replacen("mysql+pymysql", "mysql", 1)),
        }
    }

    /// Opens a connection in addition to the server's.
    pub(crate) async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.sqlx_url()).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        self.try_execute(sql).await.unwrap()
    }

    async fn try_execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let mut connection = self.connect().await;
        Ok(sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?.rows_affected())
    }

    /// Executes all of these statements in one transaction.
    pub(crate) async fn execute_all(&self, statements: &[String]) {
        let mut connection = self.connect().await;
        let mut transaction = connection.begin().await.unwrap();
        for sql in statements {
            sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    /// The literal for true in a condition.
    pub(crate) fn truth(&self) -> &'static str {
        if self.engine == Engine::Postgres { "TRUE" } else { "1" }
    }

    /// The rows of a query with two text columns.
    pub(crate) async fn pairs(&self, sql: &str) -> Vec<(String, String)> {
        let mut connection = self.connect().await;
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap()
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
    }
}

/// The name of a new database.
fn new_name() -> String {
    format!("test_{:032x}", rand::random::<u128>())
}

/// When the program was built.
fn program_time() -> SystemTime {
    modified(Path::new(program().get_program())).unwrap()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// A port that is free at this moment.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A database server for one test, which can be killed.
pub(crate) struct DatabaseServer {
    engine: Engine,
    dir: TempDir,
    port: u16,
    running: bool,
}

impl DatabaseServer {
    /// Starts a server of the engine under test, which must not be SQLite.
    pub(crate) fn start() -> Self {
        Self::start_after(&[])
    }

    /// Starts a server with TLS. Its certificate is for localhost, and the user `tls` needs a client certificate.
    pub(crate) async fn start_with_tls() -> Self {
        let server = Self::start_after(&["tls"]);
        let database = server.database().await;
        if server.engine == Engine::Postgres {
            database.execute("CREATE ROLE tls LOGIN SUPERUSER").await;
        } else {
            database.execute("CREATE USER tls@'%' REQUIRE X509").await;
            database.execute("GRANT ALL ON *.* TO tls@'%'").await;
        }
        server
    }

    fn start_after(commands: &[&str]) -> Self {
        let dir = TempDir::with_prefix("glimpse-database-").unwrap();
        // The system users that the servers run as need access.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut server = Self { engine: Engine::under_test(), dir, port: free_port(), running: false };
        server.script("create");
        for command in commands {
            server.script(command);
        }
        // Another process may take the port in the meantime.
        for _ in 0..2 {
            if server.try_script("start") {
                server.running = true;
                return server;
            }
            server.port = free_port();
        }
        server.start_again();
        server
    }

    /// The path of a file created by `tests/database tls`.
    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.folder().join("tls").join(name)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn start_again(&mut self) {
        self.script("start");
        self.running = true;
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.script("kill");
        self.running = false;
    }

    /// Suspends the server until it is thawed: its connections stay open, and nothing responds.
    pub(crate) fn freeze(&self) {
        self.script("freeze");
    }

    pub(crate) fn thaw(&self) {
        self.script("thaw");
    }

    pub(crate) async fn database(&self) -> Database {
        let scheme = if self.engine == Engine::Postgres { "postgresql://postgres" } else { "mysql+pymysql://root" };
        Database::create_on(&format!("{scheme}@127.0.0.1:{}", self.port)).await
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    fn script(&self, command: &str) {
        assert!(self.try_script(command), "tests/database {command}");
    }

    fn try_script(&self, command: &str) -> bool {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/database");
        let mut run = Command::new(script);
        run.args([command, self.engine.name()]).arg(self.folder()).stdout(std::process::Stdio::null());
        if command == "start" {
            run.arg(self.port.to_string());
        }
        run.status().unwrap().success()
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if self.running {
            self.thaw();
            self.script("kill");
        }
    }
}
