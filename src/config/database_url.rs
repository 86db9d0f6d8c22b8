//! SQLAlchemy's database URLs, as deployers write them.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgSslMode},
};
use url::Url;

/// Where the database is, and how to log in. Cannot be printed with its password.
#[derive(Clone)]
pub(crate) enum DatabaseUrl {
    /// `sqlite:///relative/path` or `sqlite:////absolute/path`.
    Sqlite(PathBuf),
    /// `postgresql://`, also with a driver's name: `postgresql+psycopg2://`.
    Postgres(Box<PgConnectOptions>),
    /// `mysql://`, also with a driver's name: `mysql+pymysql://`.
    MySql(Box<MySqlConnectOptions>),
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:///{}", path.display()),
            Self::Postgres(options) => {
                let database = options.get_database().unwrap_or_default();
                write!(f, "postgresql://***@{}:{}/{database}", options.get_host(), options.get_port())
            }
            Self::MySql(options) => {
                let database = options.get_database().unwrap_or_default();
                write!(f, "mysql://***@{}:{}/{database}", options.get_host(), options.get_port())
            }
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("a database URL starts with scheme://")?;
        let dialect = scheme.split_once('+').map_or(scheme, |(dialect, _driver)| dialect);
        if dialect == "sqlite" {
            let path = rest.strip_prefix('/').filter(|path| !path.is_empty() && *path != ":memory:");
            let path = path.ok_or("an SQLite URL names a file: sqlite:///relative or sqlite:////absolute")?;
            return Ok(Self::Sqlite(path.split_once('?').map_or(path, |(path, _)| path).into()));
        }
        // The text of a URL that does not parse may hold a password, so no message repeats it.
        let url = Url::parse(&format!("{dialect}://{rest}")).map_err(|error| format!("not a URL: {error}"))?;
        match dialect {
            "postgresql" | "postgres" => postgres(&url).map(|options| Self::Postgres(Box::new(options))),
            "mysql" | "mariadb" => mysql(&url).map(|options| Self::MySql(Box::new(options))),
            other => Err(format!("{other:?} is not a database that Glimpse knows: sqlite, postgresql or mysql")),
        }
    }
}

/// The parts that every server URL has: user, password, host, port, database.
struct Server {
    user: String,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: String,
}

impl Server {
    fn of(url: &Url) -> Result<Self, String> {
        let decode = |part: &str| {
            let decoded = percent_encoding::percent_decode_str(part).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| "a part of the URL is not UTF-8".to_owned())
        };
        Ok(Self {
            user: decode(url.username())?,
            password: url.password().map(decode).transpose()?,
            host: url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned()),
            port: url.port(),
            database: decode(url.path().trim_start_matches('/'))?,
        })
    }
}

fn mysql(url: &Url) -> Result<MySqlConnectOptions, String> {
    let server = Server::of(url)?;
    let mut options = MySqlConnectOptions::new().database(&server.database).ssl_mode(MySqlSslMode::Preferred);
    if !server.user.is_empty() {
        options = options.username(&server.user);
    }
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    if let Some(host) = &server.host {
        options = options.host(host);
    }
    if let Some(port) = server.port {
        options = options.port(port);
    }
    for (name, value) in url.query_pairs() {
        options = match name.as_ref() {
            "unix_socket" => options.socket(value.as_ref()),
            "ssl_ca" => options.ssl_ca(value.as_ref()).ssl_mode(MySqlSslMode::VerifyCa),
            "ssl_cert" => options.ssl_client_cert(value.as_ref()),
            "ssl_key" => options.ssl_client_key(value.as_ref()),
            // The text of every column is utf8mb3 or ASCII; the connection always speaks utf8mb4, which holds it.
            "charset" => options,
            other => {
                return Err(format!("the parameter {other:?} is not one that Glimpse acts on"));
            }
        };
    }
    Ok(options)
}

fn postgres(url: &Url) -> Result<PgConnectOptions, String> {
    let server = Server::of(url)?;
    let mut options = PgConnectOptions::new_without_pgpass().database(&server.database).ssl_mode(PgSslMode::Prefer);
    if !server.user.is_empty() {
        options = options.username(&server.user);
    }
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    if let Some(host) = &server.host {
        options = options.host(host);
    }
    if let Some(port) = server.port {
        options = options.port(port);
    }
    for (name, value) in url.query_pairs() {
        options = match name.as_ref() {
            "host" => options.socket(value.as_ref()),
            "sslmode" => options.ssl_mode(value.parse().map_err(|_| format!("sslmode {value:?} is unknown"))?),
            "sslrootcert" => options.ssl_root_cert(value.as_ref()),
            "sslcert" => options.ssl_client_cert(value.as_ref()),
            "sslkey" => options.ssl_client_key(value.as_ref()),
            other => {
                return Err(format!("the parameter {other:?} is not one that Glimpse acts on"));
            }
        };
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::DatabaseUrl;

    #[test]
    fn password_is_never_printed() {
        let urls = ["mysql+pymysql://glance:s3cr%40t@db:3307/glance?charset=utf8", "postgresql://glance:s3cr%40t@db/g"];
        for text in urls {
            let url: DatabaseUrl = text.parse().unwrap();
            assert!(!format!("{url} {url:?}").contains("s3cr"), "{url:?}");
        }
        let error = "mysql://glance:s3cret@[bad/glance".parse::<DatabaseUrl>().unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn sqlite_paths_are_relative_or_absolute() {
        let path = |text: &str| match text.parse().unwrap() {
            DatabaseUrl::Sqlite(path) => path.to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path("sqlite:///glance.sqlite"), "glance.sqlite");
        assert_eq!(path("sqlite:////var/lib/glance/glance.sqlite"), "/var/lib/glance/glance.sqlite");
        assert!("sqlite://".parse::<DatabaseUrl>().is_err());
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let error = "mysql://u@h/d?plugin=x".parse::<DatabaseUrl>().unwrap_err();
        assert!(error.contains("plugin"), "{error}");
    }
}
