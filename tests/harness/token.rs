//! Tokens, made here independently of natter's own code.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

/// Claims to be changed at will before they are signed.
#[derive(Debug, Clone)]
pub struct Claims(pub Map<String, Value>);

impl Claims {
    /// A plain user's claims, valid for an hour.
    pub fn of(user: &str) -> Self {
        let now = now_s();
        let claims = json!({
            "iss": "natter-dev", "aud": "natter", "sub": user, "name": user, "roles": [],
            "iat": now, "nbf": now, "exp": now + 3600,
        });
        match claims {
            Value::Object(map) => Self(map),
            _ => unreachable!("written as an object above"),
        }
    }

    /// The same with one claim changed; null takes it away.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        if value.is_null() {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), value);
        }
        self
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// Signs with a stack's development key.
#[derive(Debug, Clone)]
pub struct Tokens {
    secret: Vec<u8>,
}

impl Tokens {
    /// The key in that data folder.
    pub fn of(data: &Path) -> Self {
        let bytes = std::fs::read(data.join("dev-jwt.key")).expect("natter dev makes the key");
        Self {
            secret: bytes.trim_ascii_end().to_vec(),
        }
    }

    /// Any other key.
    pub fn with_secret(secret: &[u8]) -> Self {
        Self {
            secret: secret.to_vec(),
        }
    }

    /// A plain user's token.
    pub fn token(&self, user: &str) -> String {
        self.sign(&Claims::of(user))
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Claims) -> String {
        self.sign_with(Algorithm::HS256, claims)
    }

    /// A token with another HMAC algorithm, which must not be taken.
    pub fn sign_with(&self, algorithm: Algorithm, claims: &Claims) -> String {
        let key = EncodingKey::from_secret(&self.secret);
        jsonwebtoken::encode(&Header::new(algorithm), &claims.0, &key).expect("HMAC cannot fail")
    }
}
