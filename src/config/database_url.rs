//! SQLAlchemy's database URLs, as deployers write them.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgSslMode},
};
use url::Url;

/// Where the database is, and how to log in. Cannot be printed with its password.
#[derive(Clone)]
pub(crate) struct DatabaseUrl {
    /// By engine.
    pub(crate) target: Target,
    /// Parameters that Glimpse does not act on, by name.
    pub(crate) ignored: Vec<String>,
}

/// A database, as its engine's driver is told.
#[derive(Clone)]
pub(crate) enum Target {
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

impl From<PathBuf> for DatabaseUrl {
    fn from(path: PathBuf) -> Self {
        Self { target: Target::Sqlite(path), ignored: Vec::new() }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Sqlite(path) => write!(f, "sqlite:///{}", path.display()),
            Target::Postgres(options) => {
                let database = options.get_database().unwrap_or_default();
                write!(f, "postgresql://***@{}:{}/{database}", options.get_host(), options.get_port())
            }
            Target::MySql(options) => {
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
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let names =
                query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap_or(pair));
            return Ok(Self { target: Target::Sqlite(path.into()), ignored: names.map(str::to_owned).collect() });
        }
        // The text of a URL that does not parse may hold a password, so no message repeats it.
        let url = Url::parse(&format!("{dialect}://{rest}")).map_err(|error| format!("not a URL: {error}"))?;
        let mut ignored = Vec::new();
        let target = match dialect {
            "postgresql" | "postgres" => Target::Postgres(Box::new(postgres(&url, &mut ignored)?)),
            "mysql" | "mariadb" => Target::MySql(Box::new(mysql(&url, &mut ignored)?)),
            other => {
                return Err(format!("{other:?} is not a database that Glimpse knows: sqlite, postgresql or mysql"));
            }
        };
        Ok(Self { target, ignored })
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

fn mysql(url: &Url, ignored: &mut Vec<String>) -> Result<MySqlConnectOptions, String> {
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
            // Below, because their order must not matter.
            "ssl_verify_cert" | "ssl_verify_identity" => options,
            other => {
                ignored.push(other.to_owned());
                options
            }
        };
    }
    // The stricter one holds. Some write them without a value.
    let is_set =
        |wanted: &str| url.query_pairs().any(|(name, value)| name == wanted && !["false", "0"].contains(&&*value));
    if is_set("ssl_verify_identity") {
        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
    } else if is_set("ssl_verify_cert") {
        options = options.ssl_mode(MySqlSslMode::VerifyCa);
    }
    Ok(options)
}

fn postgres(url: &Url, ignored: &mut Vec<String>) -> Result<PgConnectOptions, String> {
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
            "application_name" => options.application_name(&value),
            other => {
                ignored.push(other.to_owned());
                options
            }
        };
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, Target};

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
        let path = |text: &str| match text.parse::<DatabaseUrl>().unwrap().target {
            Target::Sqlite(path) => path.to_str().unwrap().to_owned(),
            Target::Postgres(_) | Target::MySql(_) => panic!("{text}"),
        };
        assert_eq!(path("sqlite:///glance.sqlite"), "glance.sqlite");
        assert_eq!(path("sqlite:////var/lib/glance/glance.sqlite"), "/var/lib/glance/glance.sqlite");
        assert!("sqlite://".parse::<DatabaseUrl>().is_err());
    }

    #[test]
    fn what_deployers_write_is_read_and_what_is_not_acted_on_is_named() {
        let ignored = |text: &str| text.parse::<DatabaseUrl>().unwrap().ignored;
        assert_eq!(ignored("mysql+pymysql://g:p@h:3306/glance?charset=utf8"), [""; 0]);
        assert_eq!(
            ignored("mysql+pymysql://g:p@h/g?charset=utf8&ssl_ca=/ca&ssl_cert=/c&ssl_key=/k&ssl_verify_cert"),
            [""; 0]
        );
        assert_eq!(ignored("mysql://g@h/g?plugin=dbcounter&read_default_file=/x"), ["plugin", "read_default_file"]);
        assert_eq!(ignored("postgresql+psycopg2://g@h/g?sslmode=require&connect_timeout=5"), ["connect_timeout"]);
        assert_eq!(ignored("sqlite:////x?check_same_thread=false"), ["check_same_thread"]);
    }

    #[test]
    fn the_stricter_check_of_a_certificate_holds() {
        let mode = |query: &str| match format!("mysql://h/d?{query}").parse::<DatabaseUrl>().unwrap().target {
            Target::MySql(options) => format!("{:?}", options.get_ssl_mode()),
            Target::Sqlite(_) | Target::Postgres(_) => panic!("{query}"),
        };
        assert_eq!(mode(""), "Preferred");
        assert_eq!(mode("ssl_ca=/ca"), "VerifyCa");
        assert_eq!(mode("ssl_verify_cert=true"), "VerifyCa");
        assert_eq!(mode("ssl_verify_cert"), "VerifyCa");
        assert_eq!(mode("ssl_verify_cert=false"), "Preferred");
        assert_eq!(mode("ssl_verify_identity=true&ssl_ca=/ca"), "VerifyIdentity");
    }
}
