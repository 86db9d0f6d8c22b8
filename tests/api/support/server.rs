//! The real program, started as an operator starts it.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::{Answer, Client, Database, eventually};

/// The configuration that a server is started with.
pub(crate) struct ServerBuilder {
    options: Vec<(String, String, String)>,
    files: Vec<(String, String)>,
    database: Option<Database>,
    environment: Vec<(String, String)>,
}

impl ServerBuilder {
    /// Adds an option to its configuration file.
    pub(crate) fn option(mut self, group: &str, name: &str, value: impl ToString) -> Self {
        self.options.push((group.to_owned(), name.to_owned(), value.to_string()));
        self
    }

    /// Sets options in its configuration file.
    pub(crate) fn options(self, options: &[(&'static str, &'static str, String)]) -> Self {
        options
            .iter()
            .fold(self, |builder, (group, name, value)| builder.without(group, name).option(group, name, value))
    }

    /// Removes an option from its configuration file.
    pub(crate) fn without(mut self, group: &str, name: &str) -> Self {
        self.options.retain(|option| (option.0.as_str(), option.1.as_str()) != (group, name));
        self
    }

    /// Puts a file into the folder of its configuration.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Uses this database instead of creating one.
    pub(crate) fn database(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Logs every statement, for tests that count them. The pool has one connection, so that the second request finds
    /// it prepared: sqlx asks PostgreSQL once per connection for the name of an enum type.
    pub(crate) fn logging_statements(self) -> Self {
        let one = self.option("database", "max_pool_size", 1).option("database", "max_overflow", 0);
        one.environment("RUST_LOG", "info,sqlx=debug")
    }

    /// Starts the server on a synced database, and waits until it listens.
    pub(crate) async fn start(self) -> TestServer {
        self.start_after("sync").await
    }

    /// Prepares its database with this command of `db`, starts the server, and waits until it listens.
    pub(crate) async fn start_after(self, prepare: &str) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let is_synced = self.database.is_none();
        let database = match self.database {
            Some(database) => database,
            None => Database::synced(dir.path()).await,
        };
        let mut text = String::new();
        // If the database is not the embedded one, the default folder of image data is Glance's.
        let images = dir.path().join("images").display().to_string();
        let staging = format!("file://{}", dir.path().join("staging").display());
        let own = [
            ("database", "connection", &database.url),
            ("glance_store", "filesystem_store_datadir", &images),
            ("DEFAULT", "node_staging_uri", &staging),
        ];
        let own = own.map(|(group, name, value)| (group.to_owned(), name.to_owned(), value.clone()));
        for (group, name, value) in own.iter().chain(&self.options) {
            writeln!(text, "[{group}]\n{name} = {value}").unwrap();
        }
        for (name, text) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let config = dir.path().join("glance-api.conf");
        fs::write(&config, text).unwrap();
        let mut server =
            TestServer { base: String::new(), database, config, dir, environment: self.environment, running: None };
        if !is_synced {
            let prepared = server.command(&["db", prepare]).output().unwrap();
            assert!(prepared.status.success(), "db {prepare}: {}", String::from_utf8_lossy(&prepared.stderr));
        }
        server.start_again().await;
        server
    }
}

/// A running server.
pub(crate) struct TestServer {
    /// `http://127.0.0.1:<port>`
    pub(crate) base: String,
    pub(crate) database: Database,
    config: PathBuf,
    dir: TempDir,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

impl TestServer {
    /// Starts a server with the defaults and its own database. It accepts every token.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn builder() -> ServerBuilder {
        ServerBuilder { options: Vec::new(), files: Vec::new(), database: None, environment: Vec::new() }
            .option("DEFAULT", "bind_port", 0)
            .option("glimpse", "auth", "fake")
            // Housekeeping would read and write rows while a test counts rows, or while a Glance has a transaction on
            // an SQLite file and fails if another process writes to it.
            .option("glimpse", "heartbeat", 600)
    }

    /// The program with this server's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("--config-file").arg(&self.config).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the program again, on the same data.
    pub(crate) async fn start_again(&mut self) {
        let mut command = self.command(&["serve"]);
        command.arg("--data-dir").arg(self.data_dir());
        let running = Running::start(command, None).await;
        self.base.clone_from(&running.base);
        self.running = Some(running);
    }

    /// Starts the program again, with a file in place of one of the system's, in a mount namespace of its own.
    ///
    /// # Errors
    /// The system does not allow this.
    pub(crate) async fn start_again_with(&mut self, file: &Path, in_place_of: &str) -> Result<(), String> {
        let bind = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let unshared = |program: &Command| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", bind, "sh"]).arg(file).arg(in_place_of);
            command.arg(program.get_program()).args(program.get_args()).env_clear().stdin(Stdio::null());
            command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        };
        let tried = unshared(&Command::new("true")).output().map_err(|error| error.to_string())?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).into_owned());
        }
        let mut command = self.command(&["serve"]);
        command.arg("--data-dir").arg(self.data_dir());
        let running = Running::start(unshared(&command), None).await;
        self.base.clone_from(&running.base);
        self.running = Some(running);
        Ok(())
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The program's log so far.
    pub(crate) fn log(&self) -> String {
        self.running.as_ref().unwrap().log()
    }

    /// The log lines of a request that has been answered.
    pub(crate) async fn log_of(&self, answer: &Answer) -> Vec<String> {
        let id = answer.header("x-openstack-request-id");
        eventually("the answer is in the log", || {
            let log = self.running.as_ref().unwrap().log_so_far();
            let lines: Vec<String> = log.lines().filter(|line| line.contains(id)).map(str::to_owned).collect();
            std::future::ready(lines.last().is_some_and(|line| line.contains("answered")).then_some(lines))
        })
        .await
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// SIGTERM
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Suspends the program: its connections stay open, and nothing responds.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Resumes the program.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.running.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The maximum of its memory so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.as_ref().unwrap().id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Limits the size of files that the server can write.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = self.running.as_ref().unwrap().id().to_string();
        let limit = format!("--fsize={bytes}");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }

    /// Runs `strace` on the server with these options and the output file `log`, and waits until it is attached.
    pub(crate) async fn trace(&self, options: &[&str], log: &Path) -> Running {
        let mut strace = Command::new("strace");
        strace.arg("-f").args(options).arg("-o").arg(log);
        strace.args(["-p", &self.running.as_ref().unwrap().id().to_string()]);
        let strace = Running::spawn(strace, Stdio::null());
        eventually("strace is attached", || std::future::ready(strace.log().contains("attached").then_some(()))).await;
        strace
    }

    /// SIGHUP
    pub(crate) fn hang_up(&self) {
        let pid = self.running.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Adds text to its configuration file. The server does not reload the file by itself.
    pub(crate) fn configure(&self, text: &str) {
        let before = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, before + text).unwrap();
    }

    /// Waits until the program has exited.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let running = self.running.as_mut().unwrap();
        eventually("the server ends", || std::future::ready(running.process.try_wait().unwrap())).await
    }

    pub(crate) fn client(&self, token: Option<&str>) -> Client {
        Client::new(&self.base, token)
    }

    pub(crate) fn anonymous(&self) -> Client {
        self.client(None)
    }

    pub(crate) fn admin(&self) -> Client {
        self.client(Some("root:admins:admin,member,reader"))
    }

    pub(crate) fn member(&self, project: &str) -> Client {
        self.client(Some(&format!("user:{project}:member,reader")))
    }

    pub(crate) fn reader(&self, project: &str) -> Client {
        self.client(Some(&format!("user:{project}:reader")))
    }
}

/// The program, without the environment variables of this process that would affect it.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glimpse"));
    command.env_clear().stdin(Stdio::null());
    // This machine may have a configuration of Glance.
    command.env("OS_GLANCE_CONFIG_DIR", "/dev/null");
    command
}

/// A process that is killed at the end of the test.
pub(crate) struct Running {
    process: Child,
    log: Arc<Mutex<String>>,
    /// `http://127.0.0.1:<port>`
    pub(crate) base: String,
}

impl Running {
    /// Starts a server, and waits until it logs the address that it listens on. Its standard output goes to the given
    /// file.
    pub(crate) async fn start(command: Command, stdout: Option<File>) -> Self {
        let mut running = Self::spawn(command, stdout.map_or_else(Stdio::null, Stdio::from));
        let base = eventually("the server listens", || {
            let ended = running.process.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {}", running.log());
            let log = running.log_so_far();
            let at = log.find("listens on http://").map(|at| at + "listens on ".len());
            let base = at.and_then(|at| log[at..].split(|c: char| c.is_whitespace() || c == '"').next());
            std::future::ready(base.map(str::to_owned))
        });
        running.base = base.await;
        running
    }

    /// Starts a process, and collects what it writes to its standard error.
    fn spawn(mut command: Command, stdout: Stdio) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(stdout).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, write) = (BufReader::new(process.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = write.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { process, log, base: String::new() }
    }

    /// The log. The server writes a line soon after the response that it is about, so this waits until no more lines come.
    pub(crate) fn log(&self) -> String {
        let mut log = self.log_so_far();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            let before = std::mem::replace(&mut log, self.log_so_far());
            if log.len() == before.len() {
                break;
            }
        }
        log
    }

    fn log_so_far(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// The permissions of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777
}
