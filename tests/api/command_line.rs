//! Tests of the command line: its output, its errors, and its exit codes.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use crate::support::{Database, Engine, TestServer, mode, program};

fn text(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn help_explains_how_to_begin() {
    let output = program().arg("--help").output().unwrap();
    let (out, _) = text(&output);
    for part in ["127.0.0.1:9292", "--config-file", "--data-dir", "GLIMPSE_DATA_DIR", "serve", "db", "identity"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let (version, _) = text(&program().arg("--version").output().unwrap());
    assert_eq!(version, format!("glimpse {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_shows_examples_and_the_options_of_the_command_before_the_global_ones() {
    let help = |arguments: &[&str]| text(&program().args(arguments).output().unwrap()).0;
    for arguments in [["identity", "add", "--help"].as_slice(), &["serve", "--help"], &["db", "purge", "-h"]] {
        let help = help(arguments);
        let at = |part: &str| help.find(part).unwrap_or_else(|| panic!("{part} is not in {help}"));
        assert!(at("\nOptions:\n") < at("\nGlobal options:\n") && at("\nGlobal options:\n") < at("--config-file"));
    }
    assert!(help(&["--help"]).contains("\nExamples:\n  glimpse  "));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| program().current_dir(dir.path()).args(arguments).output().unwrap();
    for (shell, part) in
        [("bash", "complete -F _glimpse"), ("zsh", "#compdef glimpse"), ("fish", "complete -c glimpse")]
    {
        let (script, _) = text(&run(&["completions", shell]));
        assert!(script.contains(part) && script.contains("clouds-yaml"), "{shell}");
    }
    let (page, _) = text(&run(&["man"]));
    assert!(page.contains(".TH glimpse 1") && page.contains("glimpse\\-identity(1)"), "{page}");
    assert!(run(&["man", "."]).status.success());
    for page in ["glimpse.1", "glimpse-serve.1", "glimpse-identity-add.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    let refused = run(&["man", "nosuch"]);
    assert!(refused.status.code() == Some(1) && text(&refused).1.contains("nosuch"), "{refused:?}");
}

/// As in `glimpse … | head -1`.
#[test]
fn a_command_whose_output_nobody_reads_ends_silently() {
    let dir = tempfile::tempdir().unwrap();
    let commands = ["config show", "config check", "policy list", "db version", "db check", "completions bash", "man"];
    for command in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut process = program();
        process.arg("--data-dir").arg(dir.path()).args(command.split(' '));
        let output = process.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output).1.as_str()), (Some(141), ""), "{command}");
    }
    // A secret that nobody has seen is an error.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut process = program();
    process.arg("--data-dir").arg(dir.path()).args(["identity", "add", "ann", "--project", "p"]).stdout(writer);
    let output = process.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.contains("nothing was changed"), "{}", text(&output).1);
}

#[tokio::test]
async fn db_commands_report_and_create_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, format!("[database]\nconnection = {}\n", database.url)).unwrap();
    let run = |arguments: &[&str]| program().arg("--config-file").arg(&config).args(arguments).output().unwrap();
    let check = run(&["db", "check"]);
    assert_eq!(check.status.code(), Some(3), "{:?}", text(&check));
    assert!(text(&run(&["db", "version"])).0.starts_with("none\n"));
    let served = run(&["serve"]);
    assert_eq!(served.status.code(), Some(1));
    assert!(text(&served).1.contains("run `glimpse db sync`"), "{}", text(&served).1);
    for _ in 0..2 {
        assert!(run(&["db", "sync"]).status.success());
    }
    assert_eq!(run(&["db", "check"]).status.code(), Some(0));
    assert!(text(&run(&["db", "version"])).0.starts_with("2024_1_contract01\nglimpse migration "));
    // As an older version of the program left it.
    database.execute("DELETE FROM glimpse_migrations WHERE version > 1").await;
    database.execute("UPDATE alembic_version SET version_num = '2023_1_contract01'").await;
    assert_eq!(run(&["db", "check"]).status.code(), Some(3));
    let served = run(&["serve"]);
    assert!(text(&served).1.contains("is older than this version needs; run `glimpse db sync`"), "{}", text(&served).1);
    database.execute("UPDATE alembic_version SET version_num = 'liberty'").await;
    database.execute("DROP TABLE glimpse_migrations").await;
    let refused = run(&["db", "sync"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).1.contains("not of a Glance from Wallaby to 33"), "{}", text(&refused).1);
}

#[tokio::test]
async fn concurrent_syncs_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, format!("[database]\nconnection = {}\n", database.url)).unwrap();
    let start =
        || program().arg("--config-file").arg(&config).args(["db", "sync"]).stderr(Stdio::piped()).spawn().unwrap();
    let syncs: Vec<_> = (0..6).map(|_| start()).collect();
    for sync in syncs {
        let output = sync.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output).1);
    }
}

#[test]
fn read_only_commands_create_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = |arguments: &[&str]| program().arg("--data-dir").arg(&data).args(arguments).output().unwrap();
    assert_eq!(run(&["db", "check"]).status.code(), Some(3));
    assert_eq!(text(&run(&["db", "version"])).0, "none\nglimpse migration 0\n");
    assert!(!run(&["identity", "list"]).status.success());
    let link = dir.path().join("glance-status");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let status =
        Command::new(link).env_clear().arg("--data-dir").arg(&data).args(["upgrade", "check"]).output().unwrap();
    assert_eq!(status.status.code(), Some(1), "{:?}", text(&status));
    assert!(!data.exists());
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_unchanged() {
    let s = TestServer::start().await;
    let success = if s.database.engine == Engine::Postgres { "TRUE" } else { "1" };
    let insert = "INSERT INTO glimpse_migrations (version, description, success, checksum, execution_time)";
    let checksum = if s.database.engine == Engine::Postgres { "''::bytea" } else { "''" };
    s.database.execute(&format!("{insert} VALUES (9999, 'future', {success}, {checksum}, 0)")).await;
    for command in [["db", "sync"].as_slice(), &["serve"]] {
        let output = s.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).1.contains("newer version of Glimpse"), "{}", text(&output).1);
    }
}

#[test]
fn users_are_added_listed_and_reset() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| program().arg("--data-dir").arg(dir.path()).args(arguments).output().unwrap();
    let added = run(&["identity", "add", "ann", "--project", "p1", "--role", "member"]);
    let (out, err) = text(&added);
    assert!(added.status.success(), "{err}");
    assert!(out.contains("OS_USERNAME=ann OS_PASSWORD="), "{out}");
    assert_eq!(text(&run(&["identity", "list"])).0, "ann\tproject p1\troles member\n");
    assert!(text(&run(&["identity", "add", "ann", "--project", "p1"])).1.contains("exists already"));
    assert!(text(&run(&["identity", "passwd", "bob"])).1.contains("there is no user bob"));
    assert!(text(&run(&["identity", "add", "a b", "--project", "p1"])).1.contains("cannot be a user's name"));
    assert!(text(&run(&["identity", "add", "bob", "--project", ""])).1.contains("cannot be a project"));
    assert!(text(&run(&["identity", "add", "bob", "--project", "p", "--role", ""])).1.contains("cannot be a role"));
    assert!(run(&["identity", "passwd", "ann"]).status.success());
    // The password is read from standard input, which is empty here, so it is too short.
    assert!(text(&run(&["identity", "passwd", "ann", "--password-stdin"])).1.contains("8 to 72"));
}

#[test]
fn users_are_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let arguments = [&["identity"], arguments].concat();
        let output = program().arg("--data-dir").arg(dir.path()).args(arguments).output().unwrap();
        (output.status.code(), text(&output).0, text(&output).1)
    };
    let (_, shown, _) = run(&["add", "ann", "--project", "p1"]);
    let stored = || fs::read_to_string(dir.path().join("identity.toml")).unwrap();
    let hash = |text: String| text.lines().find(|line| line.starts_with("password_hash")).map(str::to_owned);
    let before = hash(stored());
    assert!(before.is_some() && shown.contains("OS_PASSWORD="));
    assert_eq!(run(&["set", "ann", "--role", "reader", "--role", "operator"]).0, Some(0));
    assert_eq!(run(&["list"]).1, "ann\tproject p1\troles reader,operator\n");
    assert_eq!(run(&["set", "ann", "--project", "p2"]).0, Some(0));
    assert_eq!(run(&["list"]).1, "ann\tproject p2\troles reader,operator\n");
    assert_eq!(hash(stored()), before, "the password was changed");
    // Nothing to change, a user that does not exist, and values that are not allowed.
    assert_eq!(run(&["set", "ann"]).0, Some(2));
    for (arguments, told) in [
        (["set", "bob", "--role=reader"].as_slice(), "there is no user bob"),
        (&["set", "ann", "--role="], "cannot be a role"),
        (&["set", "ann", "--project="], "cannot be a project"),
        (&["remove", "bob"], "there is no user bob"),
    ] {
        let (code, _, error) = run(arguments);
        assert!(code == Some(1) && error.contains(told), "{arguments:?}: {error}");
    }
    assert_eq!(run(&["remove", "ann"]), (Some(0), String::new(), String::new()));
    assert_eq!(run(&["list"]).1, "");
}

#[test]
fn a_role_that_the_default_policy_does_not_use_causes_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let errors = |arguments: &[&str]| {
        let output = program().arg("--data-dir").arg(dir.path()).arg("identity").args(arguments).output().unwrap();
        assert!(output.status.success());
        text(&output).1
    };
    let warning = "the default policy does not use the role raeder; it uses admin, member, reader, service";
    assert!(errors(&["add", "ann", "--project", "p", "--role", "raeder"]).contains(warning));
    assert_eq!(errors(&["set", "ann", "--role", "Reader"]), "");
    assert!(errors(&["set", "ann", "--role", "raeder"]).contains(warning));
}

#[test]
fn a_server_on_every_address_is_shown_with_a_url_that_works_here() {
    let dir = tempfile::tempdir().unwrap();
    let shown = |host: &str| {
        let mut command = program();
        command.arg("--data-dir").arg(dir.path()).env("OS_DEFAULT__BIND_HOST", host);
        let name = format!("u{}", host.len());
        text(&command.args(["identity", "add", &name, "--project", "p"]).output().unwrap()).0
    };
    for (host, url) in [("0.0.0.0", "http://127.0.0.1:9292/v3"), ("::", "'http://[::1]:9292/v3'")] {
        let shown = shown(host);
        assert!(shown.contains(&format!(" OS_AUTH_URL={url} OS_PROJECT_NAME=p\n")), "{shown}");
        assert!(shown.contains("# On another machine, use the name of this machine in the URL.\n"), "{shown}");
    }
    assert!(!shown("localhost").contains("# On another machine"));
}

#[test]
fn a_clouds_yaml_is_written_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.current_dir(dir.path()).arg("identity").args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), text(&output).0, text(&output).1)
    };
    run(&["add", "ann", "--project", "p"]);
    let stored = || fs::read_to_string(dir.path().join("glimpse-data/identity.toml")).unwrap();
    let first = stored();
    assert_eq!(run(&["clouds-yaml", "ann"]).0, Some(0));
    let written = dir.path().join("clouds.yaml");
    assert_eq!(mode(&written), 0o600);
    assert!(fs::read_to_string(&written).unwrap().starts_with("clouds:\n  \"ann\":\n    auth_type: password\n"));
    let second = stored();
    assert_ne!(second, first);
    // A file that exists is not replaced, and the password stays.
    let (code, _, error) = run(&["clouds-yaml", "ann"]);
    assert!(code == Some(1) && error.contains("clouds.yaml: File exists"), "{error}");
    // This is not the user's password: standard input is empty.
    let (code, _, error) = run(&["clouds-yaml", "ann", "--file=-", "--password-stdin"]);
    assert!(code == Some(1) && error.contains("not the password of user ann"), "{error}");
    assert_eq!(stored(), second);
    assert!(run(&["clouds-yaml", "ann", "--file=-"]).1.starts_with("clouds:\n"));
    assert!(run(&["clouds-yaml", "bob", "--file=-"]).2.contains("there is no user bob"));
}

#[test]
fn concurrent_commands_lose_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.arg("--data-dir").arg(dir.path()).args(arguments).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let names: Vec<String> = (0..6).map(|n| format!("u{n}")).collect();
    let added: Vec<_> = names.iter().map(|name| run(&["identity", "add", name, "--project", "p"])).collect();
    for add in added {
        assert!(add.wait_with_output().unwrap().status.success());
    }
    let (listed, _) = text(&run(&["identity", "list"]).wait_with_output().unwrap());
    assert_eq!(listed.lines().count(), 6, "{listed}");
}

/// A secret that nobody has seen is not stored.
#[test]
fn a_secret_that_cannot_be_printed_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program();
    command.arg("--data-dir").arg(dir.path()).args(["identity", "add", "ann", "--project", "p"]).stdout(full);
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.contains("No space left"), "{}", text(&output).1);
    assert!(!dir.path().join("identity.toml").exists());
}

#[test]
fn an_invalid_option_is_refused_with_its_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glance-api.conf");
    let run = || program().arg("--config-file").arg(&config).output().unwrap();
    fs::write(&config, "[DEFAULT]\nbind_port = many\n").unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.contains("glance-api.conf:2: [DEFAULT] bind_port: a whole number"), "{}", text(&output).1);
    fs::write(&config, "[glimpse]\nauth = nobody\n").unwrap();
    assert!(text(&run()).1.contains("one of standalone, keystone, proxy, fake, none is expected"));
    fs::write(&config, "[glimpse]\ndrain_timeout = 1e19\n").unwrap();
    assert!(text(&run()).1.contains("from 0 to a year is expected"));
    fs::remove_file(&config).unwrap();
    assert!(text(&run()).1.contains("No such file"));
}

#[tokio::test]
async fn an_option_without_effect_is_named_in_a_warning() {
    let s = TestServer::builder().option("DEFAULT", "scrub_time", 1).option("DEFAULT", "debig", 1).start().await;
    assert!(s.log().contains("Glimpse does not act on [DEFAULT] scrub_time"), "{}", s.log());
    assert!(s.log().contains("there is no option [DEFAULT] debig; was [DEFAULT] debug meant?"), "{}", s.log());
}

#[test]
fn later_files_and_the_environment_take_precedence() {
    let dir = tempfile::tempdir().unwrap();
    let confs = dir.path().join("conf.d");
    fs::create_dir(&confs).unwrap();
    fs::write(confs.join("10.conf"), "[DEFAULT]\nbind_port = 1\n").unwrap();
    fs::write(confs.join("20.conf"), "[DEFAULT]\nbind_port = 2\n").unwrap();
    fs::write(confs.join("30.txt"), "[DEFAULT]\nbind_port = nonsense\n").unwrap();
    let add = |environment: &[(&str, &str)]| {
        let mut command = program();
        command.arg("--config-dir").arg(&confs).arg("--data-dir").arg(dir.path().join("data"));
        let name = format!("u{}", environment.len());
        text(
            &command
                .envs(environment.iter().copied())
                .args(["identity", "add", &name, "--project", "p"])
                .output()
                .unwrap(),
        )
        .0
    };
    assert!(add(&[]).contains("http://127.0.0.1:2/v3"));
    assert!(add(&[("OS_DEFAULT__BIND_PORT", "3")]).contains("http://127.0.0.1:3/v3"));
}

/// Scripts call Glance's commands by name; a link to the program with such a name runs that command.
#[tokio::test]
async fn links_named_like_glances_commands_run_these_commands() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, format!("[database]\nconnection = {}\n", database.url)).unwrap();
    let run = |name: &str, arguments: &[&str]| {
        let link = dir.path().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
        }
        let mut command = Command::new(&link);
        command.env_clear().arg("--config-file").arg(&config).args(arguments).output().unwrap()
    };
    // Glance has the steps of a rolling upgrade on two engines only.
    let is_rolling = database.engine != Engine::Postgres;
    assert_eq!(run("glance-manage", &["db", "check"]).status.code(), Some(if is_rolling { 3 } else { 1 }));
    let status = run("glance-status", &["upgrade", "check"]);
    assert_eq!(status.status.code(), Some(1), "{:?}", text(&status));
    assert!(text(&status).0.contains("| Upgrade Check Results "), "{}", text(&status).0);
    let served = run("glance-api", &[]);
    assert_eq!(served.status.code(), Some(1));
    assert!(text(&served).1.contains("it is empty"), "{}", text(&served).1);
    let log = dir.path().join("manage.log");
    let synced = run("glance-manage", &["db_sync"]);
    assert!(synced.status.success() && text(&synced).0.contains("Database is synced successfully."), "{synced:?}");
    for arguments in [
        ["db", "sync"].as_slice(),
        &["db", "sync", "--version", "heads"],
        &["db_sync", "heads"],
        &["db", "upgrade"],
        &["db", "sync", "--version", "liberty"],
        &["db_upgrade", "heads"],
        &["--debug", "db_version"],
        &["--nodebug", "--nouse-syslog", "db", "version", "--log-file", log.to_str().unwrap()],
    ] {
        let output = run("glance-manage", arguments);
        assert!(output.status.success(), "{arguments:?}: {:?}", text(&output));
    }
    assert!(log.exists());
    for arguments in
        [["db", "expand"].as_slice(), &["db", "migrate"], &["db", "contract"], &["db", "check"], &["db_check"]]
    {
        let output = run("glance-manage", arguments);
        assert_eq!(output.status.success(), is_rolling, "{arguments:?}: {:?}", text(&output));
    }
    for arguments in [["db", "version"].as_slice(), &["db_version"]] {
        assert_eq!(text(&run("glance-manage", arguments)).0, "2024_1_contract01\n");
    }
    // Options without effect are no reason to stop an upgrade.
    fs::write(&config, format!("[DEFAULT]\nscrub_time = 1\n[database]\nconnection = {}\n", database.url)).unwrap();
    let status = run("glance-status", &["upgrade", "check"]);
    assert_eq!(status.status.code(), Some(0), "{:?}", text(&status));
    assert!(text(&status).0.contains("| Details: 1 warnings: run `glimpse config check`"), "{:?}", text(&status));
    fs::write(&config, "[DEFAULT]\nbind_port = many\n").unwrap();
    assert_eq!(run("glance-status", &["upgrade", "check"]).status.code(), Some(2));
}

#[test]
fn links_named_like_commands_that_are_missing_fail_and_start_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["glance-scrubber", "glance-control", "glance-replicator"] {
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
        let mut command = Command::new(&link);
        command.env_clear().env("OS_GLANCE_CONFIG_DIR", "/dev/null").env("OS_DEFAULT__BIND_PORT", "0");
        let output = command.current_dir(dir.path()).arg("--config-file=x").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).1.contains(&format!("Glimpse does not have {name} yet")), "{}", text(&output).1);
    }
    assert!(!dir.path().join("glimpse-data").exists());
}

/// Purges the same rows as Glance's own glance-manage.
#[tokio::test]
async fn rows_deleted_long_ago_are_purged() {
    let s = TestServer::start().await;
    let link = s.data_dir().with_file_name("glance-manage");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let config = s.data_dir().with_file_name("glance-api.conf");
    let run = |arguments: &[&str]| {
        let output =
            Command::new(&link).env_clear().arg("--config-file").arg(&config).args(arguments).output().unwrap();
        (output.status.code(), text(&output).1)
    };
    let count = async |table: &str| s.database.count(&format!("SELECT COUNT(*) FROM {table}")).await;
    let member = s.member("p1");
    let mut images = Vec::new();
    for _ in 0..3 {
        let image = member.create_image(&serde_json::json!({"os_distro": "debian"})).await;
        member.delete(&image).await.expect(204);
        images.push(image);
    }
    member.create_image(&serde_json::json!({"os_distro": "debian"})).await;
    let kept = count("image_properties").await - 3;
    // No row is old enough yet.
    assert_eq!(run(&["db", "purge", "--age_in_days", "1"]).0, Some(0));
    assert_eq!(run(&["db", "purge_images_table"]).0, Some(0));
    assert_eq!((count("images").await, count("image_properties").await), (4, kept + 3));
    for table in ["images", "image_properties"] {
        let set = format!("UPDATE {table} SET deleted_at = '2020-01-01 00:00:00.000000' WHERE deleted_at IS NOT NULL");
        s.database.execute(&set).await;
    }
    // The properties, tags and locations of images must be purged first.
    let (code, error) = run(&["db", "purge_images_table", "--age_in_days", "1"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("Purge command failed, check glance-manage logs for more details."), "{error}");
    assert_eq!(run(&["db", "purge", "--age_in_days", "1", "--max_rows", "2"]).0, Some(0));
    assert_eq!(count("image_properties").await, kept + 1);
    assert_eq!(run(&["db", "purge", "1", "-1"]).0, Some(0));
    assert_eq!((count("images").await, count("image_properties").await), (4, kept));
    // An image's row prevents its id from being used again.
    let id = serde_json::json!({"id": images[0].rsplit('/').next().unwrap()});
    member.post("/v2/images", &id).await.expect(409);
    assert_eq!(run(&["db", "purge_images_table", "--max_rows", "1"]).0, Some(0));
    assert_eq!(count("images").await, 3);
    assert_eq!(run(&["db", "purge_images_table"]).0, Some(0));
    assert_eq!(count("images").await, 1);
    member.post("/v2/images", &id).await.expect(201);
}

#[test]
fn invalid_and_unsupported_db_commands_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("glance-manage");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_glimpse"), &link).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&link);
        command.env_clear().env("OS_GLANCE_CONFIG_DIR", "/dev/null");
        command.env("OS_DATABASE__CONNECTION", format!("sqlite:///{}/glance.sqlite", dir.path().display()));
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), text(&output).1)
    };
    for (arguments, code, told) in [
        (["db", "purge", "--age_in_days", "-1"], 1, "Must supply a non-negative value for age."),
        (["db", "purge", "--age_in_days", "100000"], 1, "Maximal age is count of days since epoch."),
        (["db", "purge", "--max_rows", "-2"], 1, "Minimal rows limit is -1."),
        (["db", "purge", "--max_rows", "2147483648"], 1, "'max_rows' value out of range, must not exceed 2147483647."),
        (["db", "purge_images_table", "--age_in_days", "x"], 2, "invalid"),
    ] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|argument| !argument.is_empty()).collect();
        let (found, error) = run(&arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
}

/// On MariaDB, an interrupted migration is not rolled back.
#[tokio::test]
async fn an_interrupted_migration_is_repeated() {
    let s = TestServer::start().await;
    if s.database.engine != Engine::MySql {
        // There, this record means that somebody has changed it.
        let failed = if s.database.engine == Engine::Postgres { "FALSE" } else { "0" };
        s.database.execute(&format!("UPDATE glimpse_migrations SET success = {failed} WHERE version = 2")).await;
        let output = s.command(&["db", "sync"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).1.contains("migration 2 is recorded as not finished"), "{}", text(&output).1);
        return;
    }
    s.member("p1").create_image(&serde_json::json!({})).await;
    for version in ["2", "9", "2 OR version = 12"] {
        s.database.execute(&format!("UPDATE glimpse_migrations SET success = 0 WHERE version = {version}")).await;
        let advice = format!("migration {} was started but not finished", version.split(' ').next().unwrap());
        for (command, code) in [("check", 3), ("sync", 0), ("check", 0)] {
            let output = s.command(&["db", command]).output().unwrap();
            let told = text(&output).0 + &text(&output).1;
            assert_eq!(output.status.code(), Some(code), "{command}: {told}");
            assert!(code == 0 || told.contains(&advice) && told.contains("which repeats it"), "{command}: {told}");
        }
    }
    assert_eq!(s.database.count("SELECT COUNT(*) FROM images").await, 1);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM alembic_version").await, 1);
}

/// A Glance that deletes an image leaves the row of its lock, which only a Galera cluster has.
#[tokio::test]
async fn locks_of_images_that_are_deleted_are_removed() {
    let s = TestServer::start().await;
    if s.database.engine != Engine::MySql {
        return;
    }
    let images = [
        s.member("p1").create_image(&serde_json::json!({})).await,
        s.member("p1").create_image(&serde_json::json!({})).await,
    ];
    let [live, deleted] = images.map(|image| image.rsplit('/').next().unwrap().to_owned());
    let fill = async || {
        let rows = format!("('{live}', 1), ('{deleted}', 1), ('purged', 1)");
        s.database.execute(&format!("INSERT IGNORE INTO glimpse_image_locks VALUES {rows}")).await;
        // Several pages.
        s.database.execute("INSERT INTO glimpse_image_locks SELECT CONCAT('gone-', seq), 1 FROM seq_1_to_2500").await;
    };
    let left = async || s.database.count("SELECT COUNT(*) FROM glimpse_image_locks").await;
    fill().await;
    s.database.execute(&format!("UPDATE images SET deleted = 1, status = 'deleted' WHERE id = '{deleted}'")).await;
    for command in ["purge", "purge_images_table"] {
        assert!(s.command(&["db", command]).output().unwrap().status.success());
        assert_eq!(left().await, 1);
        assert_eq!(
            s.database.count(&format!("SELECT COUNT(*) FROM glimpse_image_locks WHERE image_id = '{live}'")).await,
            1
        );
        fill().await;
    }
    let _tidying = TestServer::builder()
        .database(s.database.clone())
        .without("glimpse", "heartbeat")
        .option("glimpse", "heartbeat", 1)
        .start()
        .await;
    crate::support::eventually("they are removed", || async { (left().await == 1).then_some(()) }).await;
}

/// SQLAlchemy's drivers treat an empty password as none.
#[tokio::test]
async fn a_database_url_with_an_empty_password_logs_in_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path()).await;
    if database.engine != Engine::MySql {
        return;
    }
    let url = database.url.replacen("root@", "root:@", 1);
    assert_ne!(url, database.url);
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, format!("[database]\nconnection = {url}\n")).unwrap();
    let output = program().arg("--config-file").arg(&config).args(["db", "sync"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
