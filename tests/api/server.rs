//! Tests of connections, request ids, the access log, signals and systemd.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Client, TestServer, eventually, program, raw, raw_status};

async fn connect(s: &TestServer) -> TcpStream {
    TcpStream::connect(s.base.trim_start_matches("http://")).await.unwrap()
}

/// Waits for a step of a test. A step that does not end in time is named.
async fn in_time<T>(step: &str, doing: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(40), doing).await;
    done.unwrap_or_else(|_| panic!("{step}: not within 40 s"))
}

/// Waits until the server has read the head of a request, which cannot be observed from outside.
async fn head_is_read() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn the_healthcheck_needs_no_token() {
    let s = TestServer::start().await;
    let answer = s.anonymous().get("/healthcheck").await.expect(200);
    assert_eq!((answer.text.as_str(), answer.header("content-type")), ("OK", "text/plain; charset=UTF-8"));
}

#[tokio::test]
async fn every_response_has_a_request_id() {
    let s = TestServer::start().await;
    let member = s.member("p1");
    let id = |answer: &crate::support::Answer| answer.header("x-openstack-request-id").to_owned();
    let (one, two) = (member.get("/v2/images").await, member.get("/v2/images").await);
    assert!(id(&one).starts_with("req-") && id(&one).len() == 40 && id(&one) != id(&two));
    for (path, status) in [("/v2/images/nope", 404), ("/nope", 300), ("/healthcheck", 200)] {
        assert!(id(&member.get(path).await.expect(status)).starts_with("req-"));
    }
    assert!(id(&s.anonymous().get("/v2/images").await.expect(401)).starts_with("req-"));
    let given = |value: &str| member.request("GET", "/v2/images").header("X-OpenStack-Request-ID", value);
    assert_eq!(id(&member.send(given("req-mine")).await.expect(200)), "req-mine");
    assert_eq!(id(&member.send(given("mine")).await.expect(200)), "req-mine");
    let forged = id(&member.send(given("x y\" z")).await.expect(200));
    assert!(!forged.contains("x y"), "{forged}");
    member.send(given(&"x".repeat(65))).await.expect(431).says("too long, max size 64");
}

#[tokio::test]
async fn the_access_log_names_the_caller_and_the_request() {
    let s = TestServer::builder().option("glimpse", "log_format", "json").start().await;
    let answer = s.member("p1").get("/v2/images/nope?secret=1").await.expect(404);
    let id = answer.header("x-openstack-request-id");
    let line: Value = serde_json::from_str(s.log_of(&answer).await.last().unwrap()).unwrap();
    assert_eq!(line["method"], "GET");
    assert_eq!(line["path"], "/v2/images/nope");
    assert_eq!(line["status"], 404);
    assert_eq!(line["span"]["id"], id);
    assert_eq!((&line["span"]["user"], &line["span"]["project"]), (&json!("user"), &json!("p1")));
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(!s.log().contains("secret"), "query strings may hold secrets");
    assert_eq!(line["bytes"], answer.text.len());
    let thousandths = line["ms"].as_f64().unwrap() * 1000.0;
    assert!((thousandths - thousandths.round()).abs() < 1e-6, "{line}");
}

/// The time and the bytes of a download are those of its whole body, not of its head.
#[tokio::test]
async fn the_access_log_counts_the_whole_body() {
    const SIZE: usize = 20_000_000;
    let s = TestServer::builder().option("glimpse", "log_format", "json").start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    let upload = member.request("PUT", &format!("{image}/file")).header("content-type", "application/octet-stream");
    member.send(upload.body(vec![b'x'; SIZE])).await.expect(204);
    let head = format!("GET {image}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: user:p1:member,reader\r\n");
    let mut stream = connect(&s).await;
    stream
        .write_all(format!("{head}X-OpenStack-Request-ID: slow\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // The buffers in between hold only a part of the body.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let logged =
        || s.log().lines().find(|line| line.contains("req-slow") && line.contains("answered")).map(str::to_owned);
    assert_eq!(logged(), None);
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let line = eventually("the download is in the log", || std::future::ready(logged())).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["bytes"], SIZE);
    assert!(line["ms"].as_f64().unwrap() >= 500.0, "{line}");
}

/// A container's log driver may stop reading. A pipe holds 64 KiB, which is some hundred lines.
#[tokio::test]
async fn a_log_pipe_that_nobody_reads_blocks_no_request_and_loses_no_line() {
    const REQUESTS: usize = 2000;
    for is_read_again in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = program();
        command.arg("--data-dir").arg(dir.path()).env("OS_DEFAULT__BIND_PORT", "0").env("OS_GLIMPSE__AUTH", "none");
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = log.find(|line| line.contains("listens on http://")).unwrap();
        let base = line[line.find("http://").unwrap()..].trim();
        let client = Client::new(base, None);
        for _ in 0..REQUESTS {
            let answer = tokio::time::timeout(Duration::from_secs(10), client.get("/healthcheck")).await;
            answer.expect("the log blocks a request").expect(200);
        }
        let reader = is_read_again.then(|| std::thread::spawn(|| log.collect::<Vec<_>>()));
        let pid = process.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = eventually("the server ends", || std::future::ready(process.try_wait().unwrap())).await;
        assert!(status.success());
        if let Some(reader) = reader {
            let lines = reader.join().unwrap();
            assert_eq!(lines.iter().filter(|line| line.contains("answered")).count(), REQUESTS);
            assert!(lines.last().unwrap().contains("stopped"), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let s = TestServer::start().await;
    let request = "GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = raw(&s.base, format!("{request}{request}{request}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
}

#[tokio::test]
async fn slow_clients_are_disconnected() {
    let s = TestServer::builder().option("glimpse", "client_timeout", "0.5").start().await;
    // One client that sends nothing, one that never ends its headers, and one that never ends its body.
    let starts: [&[u8]; 3] = [
        b"",
        b"GET /v2/images HTTP/1.1\r\nHost: x\r\n",
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p:member\r\nContent-Length: 10\r\n\r\n{",
    ];
    for start in starts {
        let mut stream = connect(&s).await;
        stream.write_all(start).await.unwrap();
        let mut answer = String::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        assert!(closed.is_ok(), "still open after {start:?}");
        if start.starts_with(b"POST") {
            assert_eq!(raw_status(&answer), 408, "{answer}");
        }
    }
}

/// `nc -N` and some proxies shut down their sending side after the request.
#[tokio::test]
async fn a_client_that_shuts_down_its_sending_side_receives_the_response() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
    let head = "HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n";
    let body = "{\"name\": null}";
    let requests = [
        (format!("DELETE {image}/tags/a {head}\r\n"), 204),
        (format!("GET {image} {head}\r\n"), 200),
        (format!("POST /v2/images {head}Content-Length: {}\r\n\r\n{body}", body.len()), 201),
        // The body is shorter than announced.
        (format!("POST /v2/images {head}Content-Length: 100\r\n\r\n{body}"), 400),
    ];
    for (request, status) in requests {
        let mut stream = connect(&s).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(raw_status(&answer), status, "{request}: {answer}");
    }
}

/// Most clients read the response only after they have sent the whole body.
#[tokio::test]
async fn a_client_that_sends_a_large_body_receives_the_refusal() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
    let token = "X-Auth-Token: u:p1:member,reader\r\n";
    let file = format!("PUT {image}/file");
    let cases = [
        ("POST /v2/images", "", 401),
        (&file, "Content-Type: application/octet-stream\r\n", 401),
        ("POST /v2/schemas/image", token, 405),
        ("POST /v2/images", token, 413),
        (&file, &format!("{token}Content-Type: text/plain\r\n"), 415),
        ("POST /v2/images", &format!("{token}Content-Type: text/plain\r\n"), 415),
        (&format!("PUT {image}/tags/a"), token, 400),
        ("PUT /v2/nope", token, 404),
    ];
    let body = vec![b' '; 32 << 20];
    for (request, headers, status) in cases {
        let mut stream = connect(&s).await;
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n");
        let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap_or_else(|error| panic!("{request}: {error}"));
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(raw_status(&answer), status, "{request}: {answer}");
    }
}

/// A client that keeps sending requests and never reads responses is disconnected.
#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let s = TestServer::builder().option("glimpse", "client_timeout", "0.5").start().await;
    let mut stream = connect(&s).await;
    let requests = "GET /versions HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    // Ends when the server closes the connection: the buffers in between hold some of the unread data.
    let asking = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(60), asking).await.is_ok(), "still open");
}

#[tokio::test]
async fn unfinished_bodies_and_unread_responses_share_a_limited_memory() {
    let s = TestServer::builder().option("glimpse", "body_memory", "20MB");
    let s = s.option("glimpse", "client_timeout", 300).start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"name": "large"})).await;
    let id = image.rsplit('/').next().unwrap();
    let value = "v".repeat(65_000);
    for part in (0..200).collect::<Vec<_>>().chunks(50) {
        let row = |n: &i32| format!("('{id}', 'p{n}', '{value}', '2026-01-01 00:00:00', '0')");
        let rows = part.iter().map(row).collect::<Vec<_>>().join(", ");
        let columns = "image_id, name, value, created_at, deleted";
        s.database.execute(&format!("INSERT INTO image_properties ({columns}) VALUES {rows}")).await;
    }
    let head = "HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\nConnection: close\r\n";
    // A response of 13 MB that is not read: the system's buffers hold a part of it, but the server keeps the rest. The receive buffer
    // keeps its default size: the system drops segments that do not fit into a smaller one, and sends them again ever more slowly.
    let mut unread = connect(&s).await;
    let request = format!("GET {image} {head}\r\n");
    in_time("sending the request for the response", unread.write_all(request.as_bytes())).await.unwrap();
    // Another response before this one begins would take the memory for this one.
    let mut answer = vec![0; 15];
    in_time("the response begins", unread.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    member.get(&image).await.expect(503).header("retry-after");
    // Bodies that are not finished take the rest.
    let mut unfinished = Vec::new();
    for n in 0..12 {
        let mut stream = connect(&s).await;
        let start = format!("POST /v2/images {head}Content-Length: 1000000\r\n\r\n{{\"name\": \"");
        let body = format!("{start}{}", "x".repeat(900_000));
        // The server reads a body to its end, even one that it has refused.
        in_time(&format!("sending unfinished body {n}"), stream.write_all(body.as_bytes())).await.unwrap();
        unfinished.push(stream);
    }
    let large = json!({"name": "x".repeat(1_040_000)});
    eventually("the bodies are held", || async {
        let answer = member.post("/v2/images", &large).await;
        (answer.status == 503).then(|| answer.header("retry-after").to_owned())
    })
    .await;
    // Small requests are served.
    member.create_image(&json!({"name": "small"})).await;
    assert!(s.log().contains("body_memory"), "{}", s.log());
    // The memory is released when the clients have disconnected or have read the response.
    drop(unfinished);
    in_time("reading the response", unread.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.len() > 13_000_000 && answer.ends_with(b"}"));
    eventually("there is memory again", || async {
        (member.post("/v2/images", &large).await.status == 400).then_some(())
    })
    .await;
    assert_eq!(member.get(&image).await.expect(200).text.len() / 1_000_000, 13);
}

/// On SIGTERM, requests in progress are finished, new ones are refused, and the program exits with success.
#[tokio::test]
async fn a_draining_server_finishes_requests_in_progress() {
    let mut s = TestServer::start().await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"tags": ["a"]})).await;
    let mut under_way = connect(&s).await;
    let head = "POST /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\nContent-Length: 14\r\n\r\n";
    under_way.write_all(format!("{head}{{\"na").as_bytes()).await.unwrap();
    head_is_read().await;
    s.terminate();
    let answer = eventually("the server drains", || async {
        let answer = s.anonymous().get("/healthcheck").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("connection"), "close");
    let answer = member.delete(&format!("{image}/tags/a")).await.expect(503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    under_way.write_all(b"me\": null}").await.unwrap();
    let mut text = String::new();
    under_way.read_to_string(&mut text).await.unwrap();
    assert_eq!(raw_status(&text), 201, "{text}");
    assert!(s.ended().await.success());
    assert_eq!(s.database.count("SELECT COUNT(*) FROM image_tags").await, 1);
    assert_eq!(s.database.count("SELECT COUNT(*) FROM images").await, 2);
}

#[tokio::test]
async fn draining_times_out() {
    let mut s = TestServer::builder().option("glimpse", "drain_timeout", "0.5").start().await;
    let mut stuck = connect(&s).await;
    let head = "POST /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member\r\nContent-Length: 14\r\n\r\n{";
    stuck.write_all(head.as_bytes()).await.unwrap();
    head_is_read().await;
    s.terminate();
    let start = Instant::now();
    assert!(s.ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_second_signal_stops_the_server_at_once() {
    let mut s = TestServer::start().await;
    let mut stuck = connect(&s).await;
    let head = "POST /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member\r\nContent-Length: 14\r\n\r\n{";
    stuck.write_all(head.as_bytes()).await.unwrap();
    head_is_read().await;
    s.terminate();
    eventually("the server drains", || async { (s.anonymous().get("/healthcheck").await.status == 503).then_some(()) })
        .await;
    let start = Instant::now();
    s.terminate();
    s.ended().await;
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut s = TestServer::start().await;
    let _idle = connect(&s).await;
    s.member("p1").get("/v2/images").await.expect(200);
    s.terminate();
    let start = Instant::now();
    assert!(s.ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Checks the raw status line and headers, which `curl` and the clients show.
#[tokio::test]
async fn status_lines_and_headers_are_those_of_glance() {
    let s = TestServer::start().await;
    let image = s.member("p1").create_image(&json!({"tags": ["a"]})).await;
    let head = format!("DELETE {image}/tags/a HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\n");
    let answer = raw(&s.base, format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/html; charset=UTF-8\r\n") && !answer.contains("content-length"),
        "{answer}"
    );
    let image = crate::data::image_with(&s.member("p1"), b"abc").await;
    let head = "HTTP/1.1\r\nHost: x\r\nX-Auth-Token: u:p1:member,reader\r\nConnection: close\r\n";
    let range = format!("GET {image}/file {head}Range: bytes=9-\r\n\r\n");
    let answer = raw(&s.base, range.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 416 Request Range Not Satisfiable\r\n"), "{answer}");
    let answer = raw(&s.base, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 300 Multiple Choices\r\n"), "{answer}");
    // An error in response to HEAD has no body, and webob's media type of an empty one.
    for (path, status) in [(image.as_str(), "405 Method Not Allowed"), ("/v2/nope", "404 Not Found")] {
        let answer = raw(&s.base, format!("HEAD {path} {head}Accept: application/json\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/html; charset=UTF-8\r\n"), "{answer}");
        assert!(answer.contains("content-length: 0\r\n"), "{answer}");
    }
}

/// Imitates the sockets of systemd.
#[tokio::test]
async fn systemd_is_notified_when_the_server_is_ready_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut s = TestServer::builder().environment("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    let mut buffer = [0; 256];
    let mut hear = async || {
        let heard = tokio::time::timeout(Duration::from_secs(10), systemd.recv(&mut buffer)).await;
        String::from_utf8_lossy(&buffer[..heard.unwrap().unwrap()]).into_owned()
    };
    assert!(hear().await.contains("READY=1"));
    s.terminate();
    assert!(hear().await.contains("STOPPING=1"));
    assert!(s.ended().await.success());
}

#[tokio::test]
async fn a_socket_opened_by_systemd_is_used() {
    let dir = tempfile::tempdir().unwrap();
    // As systemd does before it starts a program: the socket is descriptor 3.
    let script = "import os, socket, sys\n\
        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
        os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), PORT=str(s.getsockname()[1]))\n\
        open(sys.argv[2], 'w').write(os.environ['PORT'])\n\
        os.execv(sys.argv[1], [sys.argv[1], '--data-dir', sys.argv[2] + '.data'])";
    let told = dir.path().join("port");
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_glimpse")]).arg(&told).env("OS_GLIMPSE__AUTH", "none");
    let running = crate::support::Running::start(command, None).await;
    let port = std::fs::read_to_string(&told).unwrap();
    assert_eq!(running.base, format!("http://127.0.0.1:{port}"));
    crate::support::Client::new(&running.base, None).get("/healthcheck").await.expect(200);
}

/// On SIGHUP, the log level changes at once, options that need a restart are reported, and an invalid file changes
/// nothing.
#[tokio::test]
async fn sighup_applies_changed_options_that_need_no_restart() {
    let s = TestServer::start().await;
    let is_told = |what: &'static str| {
        let log = s.log();
        std::future::ready(log.contains(what).then_some(()))
    };
    let member = s.member("p1");
    let quiet = s.log_of(&member.get("/v2/images/nope").await.expect(404)).await;
    assert!(!quiet.concat().contains("refused"), "{quiet:?}");
    s.configure("[DEFAULT]\ndebug = true\n");
    s.hang_up();
    eventually("it is read again", || is_told("configuration was reloaded")).await;
    let loud = s.log_of(&member.get("/v2/images/nope").await.expect(404)).await;
    assert!(loud.concat().contains("refused"), "{loud:?}");
    s.configure("[DEFAULT]\nimage_tag_quota = 1\n");
    s.hang_up();
    eventually("what needs a restart is told", || is_told("changes of [DEFAULT] need a restart")).await;
    s.configure("nonsense\n");
    s.hang_up();
    eventually("it is told", || is_told("configuration cannot be read; the previous one stays in force")).await;
    member.get("/v2/images").await.expect(200);
}
