//! The socket on which the server listens.

use std::{io, net::SocketAddr};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::config::Config;

/// A socket that has its address. Unless systemd passed it, it does not listen yet: until the server is ready, clients are refused.
pub(crate) struct BoundSocket {
    socket: Socket,
    backlog: u32,
}

enum Socket {
    Bound(TcpSocket),
    Listening(TcpListener),
}

impl BoundSocket {
    /// Uses the socket that systemd passed to the process, or binds one as `[DEFAULT] bind_host` and `bind_port` say.
    ///
    /// # Errors
    /// No address of the host can be bound, for example because the port is in use. The message names the options.
    pub(crate) async fn bind(config: &Config) -> io::Result<Self> {
        let backlog = config.default.backlog;
        if let Some(listener) = ListenFd::from_env().take_tcp_listener(0)? {
            listener.set_nonblocking(true)?;
            return Ok(Self { socket: Socket::Listening(TcpListener::from_std(listener)?), backlog });
        }
        let (host, port) = (config.bind_host(), config.default.bind_port);
        match bind(host, port).await {
            Ok(socket) => Ok(Self { socket: Socket::Bound(socket), backlog }),
            Err(error) => Err(refusal(host, port, &error)),
        }
    }

    /// The address, with the port that the system chose if the configured one is 0.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Bound(socket) => socket.local_addr(),
            Socket::Listening(listener) => listener.local_addr(),
        }
    }

    /// Starts to listen.
    pub(super) fn listen(self) -> io::Result<TcpListener> {
        match self.socket {
            Socket::Listening(listener) => Ok(listener),
            Socket::Bound(socket) => {
                let address = socket.local_addr()?;
                socket.listen(self.backlog).map_err(|error| refusal(&address.ip().to_string(), address.port(), &error))
            }
        }
    }
}

fn refusal(host: &str, port: u16, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "choose another port with `glimpse serve --port`, or with [DEFAULT] bind_port",
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 with `glimpse serve --port`, or with [DEFAULT] bind_port"
        }
        _ => "choose another address with `glimpse serve --bind`, or with [DEFAULT] bind_host",
    };
    io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {error}; {advice}"))
}

/// Binds the first of the host's addresses that can be bound and that no other process listens on.
async fn bind(host: &str, port: u16) -> io::Result<TcpSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            // Without SO_REUSEADDR, a restarted server could not bind until the connections of its predecessor have timed out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
