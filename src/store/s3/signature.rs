//! AWS Signature Version 4, which authenticates a request.

use chrono::{DateTime, Utc};
use openssl::{error::ErrorStack, hash::MessageDigest, pkey::PKey, sha::sha256, sign::Signer};

use crate::config::Secret;

/// The name of the service in a signature's scope.
const SERVICE: &str = "s3";

/// Credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) access: Secret,
    pub(super) secret: Secret,
    /// The session token of temporary keys, which is sent in the header `x-amz-security-token`.
    pub(super) token: Option<Secret>,
}

/// The signed parts of a request. The path and the query are percent-encoded, and the query is sorted by name.
pub(super) struct Signed<'r> {
    pub(super) method: &'r str,
    pub(super) host: &'r str,
    pub(super) path: &'r str,
    pub(super) query: &'r str,
    /// The SHA-256 of the body, in hexadecimal digits.
    pub(super) payload: &'r str,
}

/// Formats the time for the header `x-amz-date`.
pub(super) fn format_date(now: DateTime<Utc>) -> String {
    now.format("%Y%m%dT%H%M%SZ").to_string()
}

/// Computes the header `authorization` of a request to a region that is sent at the time `now`.
///
/// # Errors
/// If OpenSSL fails.
pub(super) fn authorization(
    keys: &Keys,
    region: &str,
    request: &Signed<'_>,
    now: DateTime<Utc>,
) -> Result<String, ErrorStack> {
    let Signed { method, host, path, query, payload } = request;
    let date = format_date(now);
    let mut headers = format!("host:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{date}\n");
    let mut signed_headers = "host;x-amz-content-sha256;x-amz-date".to_owned();
    if let Some(token) = &keys.token {
        headers += &format!("x-amz-security-token:{}\n", token.expose());
        signed_headers += ";x-amz-security-token";
    }
    let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{signed_headers}\n{payload}");
    let day = now.format("%Y%m%d").to_string();
    let scope = format!("{day}/{region}/{SERVICE}/aws4_request");
    let string_to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
    let mut key = format!("AWS4{}", keys.secret.expose()).into_bytes();
    for part in [day.as_str(), region, SERVICE, "aws4_request"] {
        key = hmac(&key, part)?;
    }
    let signature = hex(&hmac(&key, &string_to_sign)?);
    let access = keys.access.expose();
    Ok(format!("AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed_headers}, Signature={signature}"))
}

fn hmac(key: &[u8], text: &str) -> Result<Vec<u8>, ErrorStack> {
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(text.as_bytes())
}

/// Formats bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values were computed by botocore.
    #[test]
    fn signatures_are_the_same_as_botocores() {
        let expected = [
            (None, "", "245fd564020eb5fe1530bde2a0fb4dc0acb477438f8dea41fccf27dc01426172"),
            (
                Some("session-token"),
                ";x-amz-security-token",
                "5049338b33a62fd1c2a77571f366f20802629102e2339bd8893a031e806cd2ab",
            ),
        ];
        for (token, signed_header, signature) in expected {
            let keys = Keys {
                access: Secret::new("AKIDEXAMPLE"),
                secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
                token: token.map(Secret::new),
            };
            let request = Signed {
                method: "GET",
                host: "s3.example.com:8080",
                path: "/bucket/a%20key",
                query: "prefix=a%2Fb&uploads=",
                payload: &hex(&sha256(b"")),
            };
            let now = DateTime::from_timestamp(1_440_938_160, 0).unwrap();
            assert_eq!(
                authorization(&keys, "eu-west-3", &request, now).unwrap(),
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-3/s3/aws4_request, \
                     SignedHeaders=host;x-amz-content-sha256;x-amz-date{signed_header}, Signature={signature}"
                )
            );
            let shown = format!("{keys:?}");
            assert!(!shown.contains("EXAMPLE") && !shown.contains("session"), "{shown}");
        }
    }
}
