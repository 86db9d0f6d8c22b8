//! A relay in front of a database server that holds one statement, so that a test controls what happens meanwhile.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::Database;

impl Database {
    /// Returns the same database behind a relay that replaces text in what clients send: each first text by the second one, which
    /// is padded to the same length.
    pub(crate) async fn rewriting(&self, texts: &'static [(&'static str, &'static str)]) -> Self {
        self.behind(move |client, server| rewrite(client, server, texts)).await
    }
}

async fn rewrite(client: TcpStream, server: TcpStream, texts: &[(&str, &str)]) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
            let sent = &mut buffer[..bytes];
            for (text, instead) in texts {
                if let Some(at) = sent.windows(text.len()).position(|part| part == text.as_bytes()) {
                    sent[at..at + text.len()].copy_from_slice(format!("{instead:0$}", text.len()).as_bytes());
                }
            }
            if to_server.write_all(sent).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Where a statement is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Before the database receives the statement.
    Statement,
    /// After the database has answered the statement.
    Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The statement has not arrived yet.
    Armed,
    Holding,
}

/// A gate that holds the next statement that contains a given text. A statement is visible only when it is prepared,
/// which is its first use on a connection.
#[derive(Clone)]
pub(crate) struct Gate {
    state: watch::Sender<State>,
    armed: Arc<Mutex<(Side, &'static str)>>,
}

impl Gate {
    /// Creates a gate, and the database that is reached through it.
    pub(crate) async fn before(database: &Database) -> (Self, Database) {
        let gate = Self { state: watch::Sender::new(State::Open), armed: Arc::new(Mutex::new((Side::Statement, ""))) };
        let passing = gate.clone();
        let behind = database.behind(move |client, server| passing.clone().pass(client, server)).await;
        (gate, behind)
    }

    /// Holds the next statement that contains this text, ignoring quotation marks. A statement that is being held
    /// proceeds.
    pub(crate) fn arm(&self, side: Side, text: &'static str) {
        *self.armed.lock().unwrap() = (side, text);
        self.state.send_replace(State::Armed);
    }

    /// Waits until a statement is held.
    pub(crate) async fn holds(&self) {
        let mut state = self.state.subscribe();
        let held = state.wait_for(|state| *state == State::Holding);
        let held = tokio::time::timeout(std::time::Duration::from_secs(20), held).await;
        assert!(held.is_ok(), "the statement did not come");
    }

    /// Lets the held statement proceed.
    pub(crate) fn open(&self) {
        self.state.send_replace(State::Open);
    }

    async fn pass(self, client: TcpStream, server: TcpStream) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        // The number of responses on this connection up to and including the one to hold.
        let holds_answer = Arc::new(Mutex::new(0_u8));
        let expected = Arc::clone(&holds_answer);
        let there = async {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
                if let Some(side) = self.takes(&buffer[..bytes]) {
                    match side {
                        Side::Statement => self.hold().await,
                        // The response to the preparation, and the rows.
                        Side::Answer => *expected.lock().unwrap() = 2,
                    }
                }
                if to_server.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        };
        let back = async {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                let is_last = {
                    let mut left = holds_answer.lock().unwrap();
                    let was = *left;
                    *left = was.saturating_sub(1);
                    was == 1
                };
                if is_last {
                    self.hold().await;
                }
                if to_client.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    }

    /// Returns the side if these bytes contain the awaited statement. Only the first match counts.
    fn takes(&self, bytes: &[u8]) -> Option<Side> {
        let (side, text) = *self.armed.lock().unwrap();
        let plain: Vec<u8> = bytes.iter().copied().filter(|byte| !b"`\"".contains(byte)).collect();
        let found = plain.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        let next = if side == Side::Statement { State::Holding } else { State::Open };
        let taken = found
            && self.state.send_if_modified(|state| {
                let is_armed = *state == State::Armed;
                if is_armed {
                    *state = next;
                }
                is_armed
            });
        taken.then_some(side)
    }

    async fn hold(&self) {
        self.state.send_replace(State::Holding);
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != State::Holding).await;
    }
}
