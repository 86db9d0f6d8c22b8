//! Database URLs in SQLAlchemy's notation.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgSslMode},
};

use super::secret::Secret;

/// The URL of a database. Its formats do not contain the password.
#[derive(Clone)]
pub(crate) struct DatabaseUrl {
    /// The engine and the database.
    pub(crate) target: Target,
    /// Parameters that Glimpse does not act on, by name.
    pub(crate) ignored: Vec<String>,
    /// The text as it was written, for comparisons.
    text: Secret,
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A database, in the form that its engine's driver takes.
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
        let text = Secret::new(format!("sqlite:///{}", path.display()));
        Self { target: Target::Sqlite(path), ignored: Vec::new(), text }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Sqlite(path) => write!(f, "sqlite:///{}", path.display().to_string().replace('%', "%25")),
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
        let scheme = scheme.to_ascii_lowercase();
        let dialect = scheme.split_once('+').map_or(scheme.as_str(), |(dialect, _driver)| dialect);
        let parts = Parts::of(rest)?;
        let mut ignored = Vec::new();
        let target = match dialect {
            "sqlite" => {
                let path = Some(parts.database).filter(|path| !path.is_empty() && path != ":memory:");
                let path = path.ok_or("an SQLite URL names a file: sqlite:///relative or sqlite:////absolute")?;
                ignored.extend(parts.query.into_iter().map(|(name, _)| name));
                Target::Sqlite(path.into())
            }
            "postgresql" | "postgres" => Target::Postgres(Box::new(postgres(parts, &mut ignored)?)),
            "mysql" | "mariadb" if parts.database.is_empty() => {
                return Err("a MySQL URL names a database: mysql+pymysql://user:password@host/database".to_owned());
            }
            "mysql" | "mariadb" => Target::MySql(Box::new(mysql(parts, &mut ignored))),
            other => {
                return Err(format!("{other:?} is not a database that Glimpse knows: sqlite, postgresql or mysql"));
            }
        };
        Ok(Self { target, ignored, text: Secret::new(text) })
    }
}

/// The parts of a URL behind its scheme, split as SQLAlchemy does: a password ends at the next `@`, and can contain any other
/// character. The host is optional.
struct Parts {
    user: String,
    password: Option<String>,
    host: String,
    port: Option<u16>,
    database: String,
    query: Vec<(String, String)>,
}

impl Parts {
    /// Error messages do not contain parts of the URL, because any part may contain a password.
    fn of(rest: &str) -> Result<Self, String> {
        let is_login = |login: &str| !login.split(':').next().unwrap_or(login).contains('/');
        let (login, rest) = match rest.split_once('@') {
            Some((login, rest)) if is_login(login) => (login, rest),
            _ => ("", rest),
        };
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let port = port.filter(|port| !port.is_empty()).map(str::parse).transpose();
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        });
        Ok(Self {
            user: decode(user)?,
            password: password.map(decode).transpose()?,
            host: host.to_owned(),
            port: port.map_err(|_| "the port of a database URL is a number up to 65535".to_owned())?,
            database: decode(database)?,
            query: pairs.collect::<Result<_, String>>()?,
        })
    }
}

fn decode(part: &str) -> Result<String, String> {
    let decoded = percent_encoding::percent_decode_str(part).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "a part of the database URL is not UTF-8".to_owned())
}

fn mysql(parts: Parts, ignored: &mut Vec<String>) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new().database(&parts.database).ssl_mode(MySqlSslMode::Preferred);
    if !parts.user.is_empty() {
        options = options.username(&parts.user);
    }
    // An empty password must not be sent: the server would compare its hash with that of an account without password.
    if let Some(password) = parts.password.as_ref().filter(|password| !password.is_empty()) {
        options = options.password(password);
    }
    if !parts.host.is_empty() {
        options = options.host(&parts.host);
    }
    if let Some(port) = parts.port {
        options = options.port(port);
    }
    for (name, value) in &parts.query {
        options = match name.as_str() {
            "unix_socket" => options.socket(value),
            "ssl_ca" => options.ssl_ca(value).ssl_mode(MySqlSslMode::VerifyCa),
            "ssl_cert" => options.ssl_client_cert(value),
            "ssl_key" => options.ssl_client_key(value),
            // These are handled below, because their order must not matter.
            "ssl_verify_cert" | "ssl_verify_identity" => options,
            // The connection always uses utf8mb4, which can represent the columns' character sets, utf8mb3 and ASCII.
            "charset" => options,
            other => {
                ignored.push(other.to_owned());
                options
            }
        };
    }
    // If both are set, the stricter one applies. An option without a value is true.
    let is_set = |wanted: &str| parts.query.iter().any(|(name, value)| name == wanted && !is_false(value));
    if is_set("ssl_verify_identity") {
        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
    } else if is_set("ssl_verify_cert") {
        options = options.ssl_mode(MySqlSslMode::VerifyCa);
    } else if parts.query.iter().any(|(name, value)| name == "ssl_verify_cert" && is_false(value)) {
        // TLS, with any certificate.
        options = options.ssl_mode(MySqlSslMode::Required);
    }
    options
}

fn is_false(value: &str) -> bool {
    ["false", "0", "no"].contains(&value.to_ascii_lowercase().as_str())
}

fn postgres(parts: Parts, ignored: &mut Vec<String>) -> Result<PgConnectOptions, String> {
    let mut options = PgConnectOptions::new_without_pgpass().database(&parts.database).ssl_mode(PgSslMode::Prefer);
    if !parts.user.is_empty() {
        options = options.username(&parts.user);
    }
    if let Some(password) = &parts.password {
        options = options.password(password);
    }
    if !parts.host.is_empty() {
        options = options.host(&parts.host);
    }
    if let Some(port) = parts.port {
        options = options.port(port);
    }
    for (name, value) in &parts.query {
        options = match name.as_str() {
            // The directory of the server's socket.
            "host" if value.starts_with('/') => options.socket(value),
            "host" => options.host(value),
            "port" => options.port(value.parse().map_err(|_| "port is a number up to 65535".to_owned())?),
            "sslmode" => options.ssl_mode(value.parse().map_err(|_| format!("sslmode {value:?} is unknown"))?),
            "sslrootcert" => options.ssl_root_cert(value),
            "sslcert" => options.ssl_client_cert(value),
            "sslkey" => options.ssl_client_key(value),
            "application_name" => options.application_name(value),
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
        for bad in
            ["mysql://glance:s3cret@h:port/glance", "oracle://glance:s3cret@h/glance", "mysql://glance:s3cret%ff@h/d"]
        {
            let error = bad.parse::<DatabaseUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn sqlite_paths_are_relative_or_absolute() {
        let path = |text: &str| match text.parse::<DatabaseUrl>().unwrap().target {
            Target::Sqlite(path) => path.to_str().unwrap().to_owned(),
            Target::Postgres(_) | Target::MySql(_) => panic!("{text}"),
        };
        assert_eq!(path("sqlite:///glance.sqlite"), "glance.sqlite");
        assert_eq!(path("sqlite:////var/lib/glance/glance.sqlite"), "/var/lib/glance/glance.sqlite");
        assert_eq!(path("sqlite:////a%20b/100%25+c.sqlite"), "/a b/100%+c.sqlite");
        assert_eq!(path("SQLite:///x"), "x");
        let shown = DatabaseUrl::from(std::path::PathBuf::from("/100%25 x")).to_string();
        assert_eq!(path(&shown), "/100%25 x");
        assert!("sqlite://".parse::<DatabaseUrl>().is_err());
    }

    #[test]
    fn a_mysql_url_names_a_database() {
        for text in
            ["mysql+pymysql://root@127.0.0.1", "mysql://root:@127.0.0.1:3306/", "mariadb://127.0.0.1?charset=utf8"]
        {
            let error = text.parse::<DatabaseUrl>().unwrap_err();
            assert!(error.starts_with("a MySQL URL names a database"), "{error}");
        }
    }

    #[test]
    fn parameters_without_effect_are_named() {
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

    /// The results are those of SQLAlchemy.
    #[test]
    fn a_url_is_split_as_by_sqlalchemy() {
        let cases = [
            ("u:p@h:1/d", ("u", Some("p"), "h", Some(1), "d")),
            ("u:p#a/b?c@h/d", ("u", Some("p#a/b?c"), "h", None, "d")),
            ("u:p%40@/d?unix_socket=/s", ("u", Some("p@"), "", None, "d")),
            ("u@[::1]:2/d", ("u", None, "::1", Some(2), "d")),
            ("h/d", ("", None, "h", None, "d")),
            ("/d", ("", None, "", None, "d")),
            ("//abs/a@b", ("", None, "", None, "/abs/a@b")),
            ("u@h/a%20b+c", ("u", None, "h", None, "a b+c")),
        ];
        for (text, (user, password, host, port, database)) in cases {
            let parts = super::Parts::of(text).unwrap();
            let found = (parts.user.as_str(), parts.password.as_deref(), parts.host.as_str(), parts.port);
            assert_eq!(found, (user, password, host, port), "{text}");
            assert_eq!(parts.database, database, "{text}");
        }
    }

    #[test]
    fn a_directory_as_the_host_contains_the_socket() {
        let host = |query: &str| match format!("postgresql://u@/d?{query}").parse::<DatabaseUrl>().unwrap().target {
            Target::Postgres(options) => (options.get_host().to_owned(), options.get_socket().cloned()),
            Target::Sqlite(_) | Target::MySql(_) => panic!("{query}"),
        };
        assert_eq!(host("host=db.example").0, "db.example");
        assert_eq!(host("host=/run/postgresql").1.unwrap().to_str(), Some("/run/postgresql"));
    }

    #[test]
    fn the_stricter_check_of_a_certificate_applies() {
        let mode = |query: &str| match format!("mysql://h/d?{query}").parse::<DatabaseUrl>().unwrap().target {
            Target::MySql(options) => format!("{:?}", options.get_ssl_mode()),
            Target::Sqlite(_) | Target::Postgres(_) => panic!("{query}"),
        };
        assert_eq!(mode(""), "Preferred");
        assert_eq!(mode("ssl_ca=/ca"), "VerifyCa");
        assert_eq!(mode("ssl_verify_cert=true"), "VerifyCa");
        assert_eq!(mode("ssl_verify_cert"), "VerifyCa");
        assert_eq!(mode("ssl_ca=/ca&ssl_verify_cert=false"), "Required");
        assert_eq!(mode("ssl_verify_identity=true&ssl_ca=/ca"), "VerifyIdentity");
    }
}
