//! The secret that turns user ids into pseudonyms, and the pseudonym.

use std::{fmt, path::Path};

use duet_core::{Error, Result};
use fs_err as fs;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The environment variable a key may be in instead of a file.
pub const KEY_VARIABLE: &str = "DUET_USER_KEY";

/// The secret that turns user ids into pseudonyms: HMAC-SHA-256, the first 128 bits.
///
/// The same key gives the same pseudonym in every run, and nobody without it can go back or join two datasets.
#[derive(Clone)]
pub struct UserKey(Hmac<Sha256>);

impl fmt::Debug for UserKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UserKey(..)")
    }
}

impl UserKey {
    /// Shortest key accepted, in bytes.
    pub const MIN_BYTES: usize = 16;

    /// A key from its bytes.
    ///
    /// # Errors
    /// [`Error::Input`] if it is shorter than [`Self::MIN_BYTES`].
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < Self::MIN_BYTES {
            return Err(Error::input(format!(
                "the user key has {} bytes; at least {} are needed",
                bytes.len(),
                Self::MIN_BYTES
            )));
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|error| Error::Internal(format!("user key: {error}")))
    }

    /// A key from a file; white space around it does not count.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::Data`] if the key is too short.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        Self::new(bytes.trim_ascii()).map_err(|error| Error::data(path, error.to_string()))
    }

    /// A key from the environment variable [`KEY_VARIABLE`], if it is set; white space around it does not count.
    ///
    /// # Errors
    /// [`Error::Input`] if the key is too short.
    pub fn from_environment() -> Result<Option<Self>> {
        match std::env::var_os(KEY_VARIABLE) {
            None => Ok(None),
            Some(text) => Self::new(text.as_encoded_bytes().trim_ascii())
                .map(Some)
                .map_err(|error| Error::input(format!("{KEY_VARIABLE}: {error}"))),
        }
    }

    /// Tells whether another process has the same key; says nothing about the key.
    pub fn check(&self) -> String {
        self.pseudonym_bytes("duet: which key is this?").to_string()
    }

    /// The pseudonym of a user id as text: 32 hex digits.
    ///
    /// # Errors
    /// None; the signature is that of earlier versions.
    pub fn pseudonym(&self, user_id: &str) -> Result<String> {
        Ok(self.pseudonym_bytes(user_id).to_string())
    }

    /// The pseudonym of a user id.
    pub fn pseudonym_bytes(&self, user_id: &str) -> Pseudonym {
        // The clone holds the state after the key's two blocks: half of the hashing is done once and not for each id.
        let mut mac = self.0.clone();
        mac.update(user_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Pseudonym(bytes)
    }
}

/// What stands for a user everywhere after the accounts are read; shown as 32 hex digits, which sort as the bytes do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pseudonym(pub [u8; 16]);

impl Pseudonym {
    /// The pseudonym that is shown as `text`: 32 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (char::from(pair[0]).to_digit(16)?, char::from(pair[1]).to_digit(16)?);
            *byte = (high * 16 + low) as u8;
        }
        Some(Self(bytes))
    }

    /// The first eight bytes as a number that sorts like them.
    pub(super) fn prefix(self) -> u64 {
        self.0[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pseudonym({self})")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_pseudonym_is_the_hmac_of_the_standard() {
        // RFC 4231, test case 1: a key of 20 bytes 0x0b, "Hi There".
        let key = UserKey::new(&[0x0b; 20]).unwrap();
        let pseudonym = key.pseudonym_bytes("Hi There");
        assert_eq!(pseudonym.to_string(), "b0344c61d8db38535ca8afceaf0bf12b");
        assert_eq!(Pseudonym::from_hex(&pseudonym.to_string()), Some(pseudonym));
        assert_eq!(key.pseudonym("Hi There").unwrap(), pseudonym.to_string());
        assert_eq!(Pseudonym::from_hex("b0344c61d8db38535ca8afceaf0bf12"), None);
        assert_eq!(Pseudonym::from_hex("+0344c61d8db38535ca8afceaf0bf12b"), None);
        assert_eq!(pseudonym.prefix(), 0xb034_4c61_d8db_3853);
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = UserKey::new(b"0123456789abcdef").unwrap();
        assert_eq!(format!("{key:?}"), "UserKey(..)");
        let error = UserKey::new(b"hush").unwrap_err().to_string();
        assert!(error.contains("4 bytes") && !error.contains("hush"), "{error}");
    }
}
