//! An empty database for unit tests that need MariaDB.

use std::str::FromStr as _;

use sqlx::{AssertSqlSafe, ConnectOptions as _, mysql::MySqlConnectOptions};

/// Creates an empty database on the server that `GLIMPSE_TEST_DATABASE` names. `None` if that is not MariaDB.
pub(super) async fn create_on_mariadb() -> Option<MySqlConnectOptions> {
    let url = std::env::var("GLIMPSE_TEST_DATABASE").ok()?;
    let url = url.strip_prefix("mysql+pymysql")?;
    let options = MySqlConnectOptions::from_str(&format!("mysql{url}?ssl-mode=disabled")).unwrap();
    let name = format!("test_{:032x}", rand::random::<u128>());
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut options.connect().await.unwrap()).await.unwrap();
    Some(options.database(&name))
}
