//! A name server for one test, on loopback.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex},
};

/// The size of a query's head.
const HEAD: usize = 12;

/// A name server that answers for one name, and never answers for others.
pub(crate) struct Dns {
    pub(crate) address: Ipv4Addr,
    unanswered: Arc<Mutex<BTreeSet<String>>>,
}

impl Dns {
    /// Starts it on an address of this machine that no other test uses. `known` is the name that it knows, as 127.0.0.1.
    ///
    /// # Errors
    /// The port of name servers is not available to this process.
    pub(crate) fn start(known: &'static str) -> io::Result<Self> {
        let address = Ipv4Addr::new(127, 53, rand::random(), rand::random::<u8>() | 1);
        // The system's resolver can only ask this port.
        let socket = UdpSocket::bind((address, 53))?;
        let unanswered = Arc::new(Mutex::new(BTreeSet::new()));
        let heard = Arc::clone(&unanswered);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let (name, end) = name(&query[..length]);
                if name == known {
                    socket.send_to(&answer(&query[..end]), client).unwrap();
                } else {
                    heard.lock().unwrap().insert(name);
                }
            }
        });
        Ok(Self { address, unanswered })
    }

    /// The number of names with this beginning that clients are waiting for.
    pub(crate) fn unanswered(&self, beginning: &str) -> usize {
        self.unanswered.lock().unwrap().iter().filter(|name| name.starts_with(beginning)).count()
    }
}

/// The name in a query, and where its question ends.
fn name(query: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = HEAD;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    // The end of the name, its type and its class.
    (labels.join("."), at + 5)
}

/// The answer to a question: an IPv4 address, or no address of another type.
fn answer(question: &[u8]) -> Vec<u8> {
    let is_ipv4 = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = question.to_vec();
    answer[2..HEAD].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
    if is_ipv4 {
        // The name of the question, its type and class, its lifetime, and the address.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
