//! Digests of data, under the names that Glance gives their algorithms.

use std::ops::ControlFlow;

use openssl::hash::{Hasher, MessageDigest};

use super::{BoxError, tap::Observer};
use crate::config::{HashAlgorithm, OptionValue as _};

/// An observer that computes a digest of the data.
pub(crate) struct Digest(Hasher);

impl Digest {
    /// # Errors
    /// If OpenSSL does not provide the algorithm.
    pub(crate) fn new(algorithm: HashAlgorithm) -> Result<Self, BoxError> {
        let name = openssl_name(algorithm);
        let digest = MessageDigest::from_name(name).ok_or_else(|| format!("OpenSSL does not know {name}"))?;
        Ok(Self(Hasher::new(digest)?))
    }

    /// Returns the digest in hexadecimal digits.
    ///
    /// # Errors
    /// If OpenSSL fails.
    pub(crate) fn hex(mut self) -> Result<String, BoxError> {
        Ok(self.0.finish()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Observer for Digest {
    fn observe(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>, BoxError> {
        self.0.update(bytes)?;
        Ok(ControlFlow::Continue(()))
    }
}

fn openssl_name(algorithm: HashAlgorithm) -> &'static str {
    use HashAlgorithm as H;
    match algorithm {
        H::Md5 => "MD5",
        H::Sha1 => "SHA1",
        H::Sha224 => "SHA224",
        H::Sha256 => "SHA256",
        H::Sha384 => "SHA384",
        H::Sha512 => "SHA512",
        H::Sha512_224 => "SHA512-224",
        H::Sha512_256 => "SHA512-256",
        H::Sha3_224 => "SHA3-224",
        H::Sha3_256 => "SHA3-256",
        H::Sha3_384 => "SHA3-384",
        H::Sha3_512 => "SHA3-512",
        H::Blake2b => "BLAKE2b512",
        H::Blake2s => "BLAKE2s256",
        H::Ripemd160 => "RIPEMD160",
        H::Sm3 => "SM3",
    }
}

/// Returns the number of hexadecimal digits of a digest. `None` if OpenSSL does not provide the algorithm.
pub(crate) fn hex_length(algorithm: HashAlgorithm) -> Option<usize> {
    MessageDigest::from_name(openssl_name(algorithm)).map(|digest| digest.size() * 2)
}

/// Returns an algorithm's name, as Glance writes it.
pub(crate) fn name(algorithm: HashAlgorithm) -> String {
    algorithm.to_text()
}

/// Returns the algorithm of this name, if Glimpse supports it.
pub(crate) fn algorithm(name: &str) -> Option<HashAlgorithm> {
    HashAlgorithm::parse(name).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream::{
        Tap, channel, feed,
        fixture::{limits, stream},
    };

    /// Expected values computed with Python's hashlib.
    #[tokio::test]
    async fn digests_match_pythons_hashlib() {
        let cases = [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "sha384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            ("sha512_224", "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa"),
            ("sha512_256", "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
            ("sha3_224", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            ("sha3_256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                "sha3_384",
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
            ),
            (
                "sha3_512",
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
            (
                "blake2b",
                "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
            ),
            ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
            ("ripemd160", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
            ("sm3", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        ];
        for (name, expected) in cases {
            let tap = Tap::start(Digest::new(algorithm(name).unwrap()).unwrap());
            let (to, mut chunks) = channel();
            let data = stream(vec![Ok(Bytes::from_static(b"abc"))]);
            let feeding = feed(data, limits(9, Some(3)), vec![tap.end()], to);
            let taking = async { while let Ok(Some(_)) = chunks.next().await {} };
            assert_eq!(tokio::join!(feeding, taking).0, Ok(3));
            assert_eq!(tap.finish().await.unwrap().hex().unwrap(), expected, "{name}");
        }
    }
}
