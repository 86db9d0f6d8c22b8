//! Puts load on a server: each client has a thread and a connection, sends one request after another, and checks every
//! response.
//!
//! ```text
//! load --server 127.0.0.1:9292 --token TOKEN --work WORK --connections 8 --seconds 3 [--images ID,ID…] [--path PATH]
//! ```
//!
//! | WORK | what each client does repeatedly |
//! |---|---|
//! | `tags` | adds a tag and removes it, on an image of its own |
//! | `one` | the same, on the first image, where every client has a tag of its own |
//! | `show` | shows an image, a different one each time |
//! | `get` | gets PATH |
//! | `create` | creates an image and deletes it |
//!
//! It prints one line of JSON: the number of expected responses, the numbers of other responses by status, the seconds, and
//! the durations of the expected responses in microseconds. With `--count N` it stops after N pairs of requests in total
//! instead of after a time.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking, and prints results")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The attributes of the images that `create` creates.
const BODY: &str = r#"{"name": "bench", "disk_format": "qcow2", "container_format": "bare", "visibility": "private", "tags": ["a", "b"], "os_distro": "debian", "hw_disk_bus": "virtio", "hw_vif_model": "virtio"}"#;

struct Arguments(Vec<String>);

impl Arguments {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().position(|argument| argument == name).map(|at| self.0[at + 1].as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }
}

struct Client<'a> {
    server: &'a str,
    token: &'a str,
    connection: Option<BufReader<TcpStream>>,
    expected: Vec<u32>,
    others: BTreeMap<u16, u64>,
    body: Vec<u8>,
}

impl Client<'_> {
    /// Sends a request, records the duration of the response, and returns whether the status is the expected one.
    fn ask(&mut self, method: &str, path: &str, body: &str, expected: u16) -> bool {
        let start = Instant::now();
        let status = self.answer(method, path, body);
        if status == expected {
            self.expected.push(start.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
        } else {
            *self.others.entry(status).or_default() += 1;
        }
        status == expected
    }

    /// Returns the status, or 0 if there was no response.
    fn answer(&mut self, method: &str, path: &str, body: &str) -> u16 {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nX-Auth-Token: {}\r\nAccept: application/json\r\n",
            self.server, self.token
        );
        let request = if body.is_empty() {
            format!("{head}\r\n")
        } else {
            format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        // The server may have closed the idle connection meanwhile; then the request is sent again on a new one.
        for _ in 0..2 {
            let fresh = self.connection.is_none();
            match self.exchange(&request) {
                Ok((status, keep)) => {
                    if !keep {
                        self.connection = None;
                    }
                    return status;
                }
                Err(_) => self.connection = None,
            }
            if fresh {
                break;
            }
        }
        0
    }

    fn exchange(&mut self, request: &str) -> std::io::Result<(u16, bool)> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(self.server)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            self.connection = Some(BufReader::with_capacity(64 * 1024, stream));
        }
        let connection = self.connection.as_mut().unwrap();
        connection.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let status = line.get(9..12).and_then(|status| status.parse().ok()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let (mut length, mut chunked, mut keep) = (None, false, true);
        loop {
            line.clear();
            connection.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<u64>().ok();
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                keep = !value.eq_ignore_ascii_case("close");
            }
        }
        self.body.clear();
        if chunked {
            loop {
                line.clear();
                connection.read_line(&mut line)?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
                connection.by_ref().take(size + 2).read_to_end(&mut self.body)?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = length {
            connection.by_ref().take(length).read_to_end(&mut self.body)?;
            if self.body.len() as u64 != length {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        } else if status != 204 {
            connection.read_to_end(&mut self.body)?;
            keep = false;
        }
        Ok((status, keep))
    }
}

fn main() {
    let arguments = Arguments(std::env::args().collect());
    let work = arguments.get("--work").unwrap();
    let connections: usize = arguments.number("--connections", 1);
    let seconds: f64 = arguments.number("--seconds", 3.0);
    let pairs: u64 = arguments.number("--count", u64::MAX);
    let path = arguments.get("--path").unwrap_or_default();
    let images: Vec<&str> = arguments.get("--images").unwrap_or_default().split(',').collect();
    let (over, left, ready) = (AtomicBool::new(false), AtomicU64::new(pairs), Barrier::new(connections + 1));
    let run = |number: usize| {
        let (server, token) = (arguments.get("--server").unwrap(), arguments.get("--token").unwrap());
        let (expected, others) = (Vec::with_capacity(1 << 16), BTreeMap::new());
        let mut client = Client { server, token, connection: None, expected, others, body: Vec::new() };
        let mut turn = number;
        let own = if work == "one" { images[0] } else { images[number % images.len()] };
        let tag = format!("/v2/images/{own}/tags/bench-{number}");
        ready.wait();
        let more = || {
            let left = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            !over.load(Ordering::Relaxed) && left.is_ok()
        };
        while more() {
            match work {
                "tags" | "one" => {
                    client.ask("PUT", &tag, "", 204);
                    client.ask("DELETE", &tag, "", 204);
                }
                "show" => {
                    // Far away from the previous image, as the requests of independent callers would be.
                    turn = turn.wrapping_add(7919);
                    client.ask("GET", &format!("/v2/images/{}", images[turn % images.len()]), "", 200);
                }
                "get" => {
                    client.ask("GET", path, "", 200);
                }
                "create" => {
                    if client.ask("POST", "/v2/images", BODY, 201) {
                        let body = String::from_utf8_lossy(&client.body);
                        let id = body.split("\"id\": \"").nth(1).unwrap()[..36].to_owned();
                        client.ask("DELETE", &format!("/v2/images/{id}"), "", 204);
                    }
                }
                _ => panic!("there is no work {work}"),
            }
        }
        (client.expected, client.others, Instant::now())
    };
    let (mut times, mut others, mut end) = (Vec::new(), BTreeMap::<u16, u64>::new(), Instant::now());
    let mut start = end;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|number| scope.spawn(move || run(number))).collect();
        ready.wait();
        start = Instant::now();
        if pairs == u64::MAX {
            thread::sleep(Duration::from_secs_f64(seconds));
            over.store(true, Ordering::Relaxed);
        }
        for client in clients {
            let (expected, unexpected, ended) = client.join().unwrap();
            times.extend(expected);
            for (status, count) in unexpected {
                *others.entry(status).or_default() += count;
            }
            end = end.max(ended);
        }
    });
    times.sort_unstable();
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let place = (times.len() as f64 * part) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let others: Vec<String> = others.iter().map(|(status, count)| format!("\"{status}\": {count}")).collect();
    println!(
        "{{\"answers\": {}, \"others\": {{{}}}, \"seconds\": {:.6}, \"p50\": {}, \"p99\": {}, \"max\": {}}}",
        times.len(),
        others.join(", "),
        (end - start).as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
