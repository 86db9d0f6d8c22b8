//! A digest that downloaded data must have. Glance does not know it, and ignores it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    stream::{self, Digest, Tap},
};

/// The digest that the client expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum {
    /// The algorithm, under Glance's name.
    algorithm: String,
    /// The digest in hexadecimal digits, in lower case.
    value: String,
}

/// Computes a digest while the data arrives.
pub(super) struct Verification {
    expected: Checksum,
    /// The observer, which must see all data.
    pub(super) tap: Tap<Digest>,
}

impl Checksum {
    /// Parses `sha256:<hexadecimal digits>`, with any algorithm that images can have.
    ///
    /// # Errors
    /// `Invalid`
    pub(super) fn parse(value: &Value) -> Result<Self> {
        let parsed = value.as_str().and_then(|text| text.split_once(':')).and_then(|(algorithm, digits)| {
            let length = stream::hex_length(stream::algorithm(algorithm)?)?;
            let is_digest = digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_digest.then(|| Self { algorithm: algorithm.to_owned(), value: digits.to_ascii_lowercase() })
        });
        parsed.ok_or_else(|| {
            Error::Invalid(
                "'checksum' must be an algorithm and a digest in hexadecimal digits, such as sha256:0123…".to_owned(),
            )
        })
    }

    /// Starts the computation.
    pub(super) fn start(&self) -> Result<Verification> {
        let unknown = || Error::Internal(format!("the algorithm {} is unknown", self.algorithm).into());
        let algorithm = stream::algorithm(&self.algorithm).ok_or_else(unknown)?;
        let digest = Digest::new(algorithm).map_err(Error::Internal)?;
        Ok(Verification { expected: self.clone(), tap: Tap::start(digest) })
    }
}

impl Verification {
    /// Compares the digests at the end of the data.
    ///
    /// # Errors
    /// `Invalid` if they differ.
    pub(super) async fn finish(self) -> Result<()> {
        let Checksum { algorithm, value } = self.expected;
        let found = self.tap.finish().await.and_then(Digest::hex).map_err(Error::Internal)?;
        if found == value {
            return Ok(());
        }
        Err(Error::Invalid(format!("The {algorithm} of the downloaded data is {found}, expected {value}.")))
    }
}
