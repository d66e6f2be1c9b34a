//! Who may ask what: API keys from a file that holds their digests.
//!
//! A key comes as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. Its SHA-256 is compared with that of every key in the file, in constant
//! time and to the end, so that the time of an answer says nothing about the keys. A key with a `user_prefix` knows no other listeners:
//! the gate checks those of a path; those of a body are checked by its route, for only what was read says whom it will be answered for.

use std::{path::Path, sync::Arc};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use duet_core::{Error, Result};
use fs_err as fs;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{error::ApiError, rate::Rate};

/// The header of a key beside `Authorization`.
pub const KEY_HEADER: &str = "x-api-key";

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask for lists and similar artists.
    Lists,
    /// Post events.
    Events,
    /// Look at the service itself: status, metrics, the search for listeners.
    Operate,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lists => "lists",
            Self::Events => "events",
            Self::Operate => "operate",
        }
    }

    /// What a route needs; nothing for what everybody may see. A route that is not known here is the operators'.
    pub(crate) fn of_route(route: &str) -> Option<Self> {
        match route {
            "/" | "/healthz" | "/readyz" | "/openapi.json" => None,
            route if route.starts_with("/docs") || route.starts_with("/page/") => None,
            "/v1/recommendations" => Some(Self::Lists),
            route if route.starts_with("/v1/users/") || route.starts_with("/v1/artists/") => Some(Self::Lists),
            "/v1/events" => Some(Self::Events),
            _ => Some(Self::Operate),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    sha256: String,
    scopes: Vec<Scope>,
    user_prefix: Option<String>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
}

struct Key {
    digest: [u8; 32],
    scopes: Vec<Scope>,
    caller: Caller,
    rate: Option<Rate>,
}

/// Who asks, as far as a key tells; in the extensions of every request that got past the gate.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    name: Option<Arc<str>>,
    user_prefix: Option<Arc<str>>,
}

impl Caller {
    /// The name of the key; nothing where no keys are configured.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether the key may know this listener (the id as given).
    ///
    /// # Errors
    /// 403.
    pub fn check_user(&self, user_id: &str) -> Result<(), ApiError> {
        match &self.user_prefix {
            Some(prefix) if !user_id.starts_with(&**prefix) => {
                Err(ApiError::forbidden("this key is for other listeners: the user id has another prefix"))
            }
            _ => Ok(()),
        }
    }
}

/// The keys of a file.
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// Reads the keys of a file.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; [`Error::Data`] naming the key and what would be valid.
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let file: KeysFile = toml::from_str(&text).map_err(|error| Error::data(path, error.to_string()))?;
        if file.keys.is_empty() {
            return Err(Error::data(path, "no [[keys]] in it: nobody could ask anything"));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(file.keys.len());
        for entry in file.keys {
            let name = entry.name.clone();
            let key = Key::new(entry).map_err(|error| Error::data(path, format!("key {name:?}: {error}")))?;
            if keys.iter().any(|known| known.digest == key.digest || known.caller.name == key.caller.name) {
                return Err(Error::data(path, format!("key {name:?}: its name or its sha256 is there twice")));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// The key of a request.
    fn find(&self, secret: &[u8]) -> Option<&Key> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let mut found = u32::MAX;
        for (index, key) in (0_u32..).zip(&self.0) {
            let equal = key.digest[..].ct_eq(&digest[..]);
            found.conditional_assign(&index, equal);
        }
        self.0.get(found as usize)
    }

    /// Lets a request for `scope` through, or says why not; one that gets through is counted against the key's rate.
    ///
    /// # Errors
    /// 401, 403 or 429.
    pub(crate) fn admit(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, ApiError> {
        let secret = secret(headers)
            .ok_or_else(|| ApiError::unauthorized("a key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY"))?;
        let key = self.find(secret).ok_or_else(|| ApiError::unauthorized("this key is not known"))?;
        if !key.scopes.contains(&scope) {
            return Err(ApiError::forbidden(format!("this key lacks the scope {:?}", scope.as_str())));
        }
        match key.rate.as_ref().map_or(Ok(()), Rate::take) {
            Ok(()) => Ok(key.caller.clone()),
            Err(seconds) => Err(ApiError::rate_limited(seconds)),
        }
    }
}

impl Key {
    fn new(entry: KeyEntry) -> Result<Self> {
        if entry.name.is_empty() {
            return Err(Error::input("name must be a word"));
        }
        let digest = digest_from_hex(&entry.sha256)
            .ok_or_else(|| Error::input("sha256 must be 64 hex digits: printf %s KEY | sha256sum"))?;
        if entry.scopes.is_empty() {
            return Err(Error::input("scopes must name some of lists, events, operate"));
        }
        if entry.user_prefix.is_some() && entry.scopes.contains(&Scope::Operate) {
            return Err(Error::input(
                "a key with a user_prefix can't have the scope operate: its routes show all listeners",
            ));
        }
        if entry.user_prefix.as_deref() == Some("") {
            return Err(Error::input("user_prefix must not be empty; leave it out where the key is for all listeners"));
        }
        if entry.burst.is_some() && entry.requests_per_second.is_none() {
            return Err(Error::input("burst goes with requests_per_second"));
        }
        let rate = entry.requests_per_second.map(|rate| Rate::new(rate, entry.burst)).transpose()?;
        let caller = Caller { name: Some(entry.name.into()), user_prefix: entry.user_prefix.map(Arc::from) };
        Ok(Self { digest, scopes: entry.scopes, caller, rate })
    }
}

/// The key as a request gives it; `Authorization` goes before the other header.
fn secret(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    match headers.get(AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value.as_bytes().split_at_checked(SCHEME.len())?;
            scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim_ascii())
        }
        None => headers.get(KEY_HEADER).map(|value| value.as_bytes().trim_ascii()),
    }
}

fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.trim().as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (char::from(pair[0]).to_digit(16)?, char::from(pair[1]).to_digit(16)?);
        *byte = (high * 16 + low) as u8;
    }
    Some(digest)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// An entry of a key file.
    pub(crate) fn entry(name: &str, key: &str, rest: &str) -> String {
        let digest: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[keys]]\nname = {name:?}\nsha256 = {digest:?}\n{rest}\n")
    }

    pub(crate) fn keys(text: &str) -> Result<Keys> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(&path, text).unwrap();
        Keys::from_file(&path)
    }

    fn bearer(key: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap())])
    }

    #[test]
    fn a_key_opens_its_scopes_and_no_others() {
        let text =
            entry("web", "w-secret", "scopes = [\"lists\"]") + &entry("feed", "f-secret", "scopes = [\"events\"]");
        let keys = keys(&text).unwrap();
        assert_eq!(keys.admit(&bearer("w-secret"), Scope::Lists).unwrap().name(), Some("web"));
        let status = |headers: &HeaderMap, scope| keys.admit(headers, scope).unwrap_err().status().as_u16();
        assert_eq!(status(&bearer("w-secret"), Scope::Events), 403);
        assert_eq!(status(&bearer("f-secret"), Scope::Lists), 403);
        for wrong in ["w-secre", "w-secret2", "", "W-SECRET"] {
            assert_eq!(status(&bearer(wrong), Scope::Lists), 401, "{wrong}");
        }
        assert_eq!(status(&HeaderMap::new(), Scope::Lists), 401);
        let basic = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic w-secret"))]);
        assert_eq!(status(&basic, Scope::Lists), 401);
        let other = HeaderMap::from_iter([(KEY_HEADER.parse().unwrap(), HeaderValue::from_static("f-secret"))]);
        assert_eq!(keys.admit(&other, Scope::Events).unwrap().name(), Some("feed"));
    }

    #[test]
    fn a_key_with_a_prefix_knows_no_other_listeners() {
        let keys = keys(&entry("a", "secret", "scopes = [\"lists\", \"events\"]\nuser_prefix = \"a-\"")).unwrap();
        let caller = keys.admit(&bearer("secret"), Scope::Lists).unwrap();
        caller.check_user("a-1").unwrap();
        for other in ["b-1", "a", "", "A-1"] {
            assert_eq!(caller.check_user(other).unwrap_err().status().as_u16(), 403, "{other}");
        }
        Caller::default().check_user("b-1").unwrap();
    }

    #[test]
    fn a_key_has_its_own_rate() {
        let text = entry("slow", "s", "scopes = [\"lists\"]\nrequests_per_second = 0.001\nburst = 2")
            + &entry("free", "f", "scopes = [\"lists\"]");
        let keys = keys(&text).unwrap();
        for _ in 0..2 {
            keys.admit(&bearer("s"), Scope::Lists).unwrap();
        }
        assert_eq!(keys.admit(&bearer("s"), Scope::Lists).unwrap_err().status().as_u16(), 429);
        for _ in 0..100 {
            keys.admit(&bearer("f"), Scope::Lists).unwrap();
        }
    }

    #[test]
    fn a_key_file_says_what_is_wrong_with_it() {
        let message = |text: &str| keys(text).err().unwrap().to_string();
        let good = "scopes = [\"lists\"]";
        assert!(message("").contains("keys"));
        assert!(message("keys = []").contains("nobody"));
        assert!(message("[[keys]]\nname = \"a\"\nsha256 = \"12\"\nscopes = [\"lists\"]").contains("64 hex digits"));
        assert!(message(&entry("a", "s", "scopes = []")).contains("lists, events, operate"));
        assert!(message(&entry("a", "s", "scopes = [\"admin\"]")).contains("operate"));
        assert!(message(&entry("a", "s", &format!("{good}\ncolour = 1"))).contains("colour"));
        assert!(message(&entry("a", "s", &format!("{good}\nburst = 1"))).contains("requests_per_second"));
        assert!(message(&entry("a", "s", &format!("{good}\nuser_prefix = \"\""))).contains("user_prefix"));
        let operator = "scopes = [\"operate\"]\nuser_prefix = \"a\"";
        assert!(message(&entry("a", "s", operator)).contains("operate"));
        let twice = entry("a", "s", good) + &entry("b", "s", good);
        assert!(message(&twice).contains("twice"));
        assert!(Keys::from_file(Path::new("no/keys.toml")).err().unwrap().to_string().contains("no/keys.toml"));
    }

    #[test]
    fn routes_have_scopes_and_unknown_ones_are_the_operators() {
        for open in ["/", "/healthz", "/readyz", "/openapi.json", "/docs/{*rest}", "/page/app.js"] {
            assert_eq!(Scope::of_route(open), None, "{open}");
        }
        assert_eq!(Scope::of_route("/v1/users/{id}/recommendations"), Some(Scope::Lists));
        assert_eq!(Scope::of_route("/v1/artists/{id}/similar"), Some(Scope::Lists));
        assert_eq!(Scope::of_route("/v1/events"), Some(Scope::Events));
        for other in ["/v1/status", "/v1/listeners", "/metrics", "/v1/new"] {
            assert_eq!(Scope::of_route(other), Some(Scope::Operate), "{other}");
        }
    }
}
