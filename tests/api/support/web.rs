//! A web server for one test, on loopback.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A running web server, which stops at the end of the test.
pub(crate) struct Web {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Starts a server with these pages: a path, and a response without its version. `HOST` in a response stands for
    /// the server's address. A response that ends with `STALL` is never completed.
    pub(crate) async fn start(pages: &[(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (pages, heard) = (pages.to_vec(), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, port, pages.clone(), Arc::clone(&heard)));
            }
        });
        Self { port, requests }
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The methods and paths of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(
    mut stream: TcpStream,
    port: u16,
    pages: Vec<(&'static str, &'static str)>,
    heard: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    heard.lock().unwrap().push(format!("{method} {path}"));
    let page = pages.iter().find(|(known, _)| *known == path).map(|(_, page)| *page);
    let page = page.unwrap_or("404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let page = page.replace("HOST", &format!("127.0.0.1:{port}")).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let (start, data) = page.split_once("\r\n\r\n").unwrap();
    let data = if method == "HEAD" { "" } else { data };
    let stalls = data.strip_suffix("STALL");
    let data = stalls.unwrap_or(data);
    let _ = stream.write_all(format!("HTTP/1.1 {start}\r\n\r\n{data}").as_bytes()).await;
    if stalls.is_some() {
        std::future::pending::<()>().await;
    }
}
