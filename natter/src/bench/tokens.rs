//! Tokens for the users of a run: asked of a development server, or signed here with a shared secret.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use client::{TokenError, TokenSource};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use crate::dev_token::DevServer;

/// Long enough for a soak.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who makes the tokens.
#[derive(Clone)]
pub(crate) enum Issuer {
    Dev(Arc<DevServer>),
    Secret(Arc<Secret>),
}

/// A shared secret and what stands in the tokens signed with it.
pub(crate) struct Secret {
    key: EncodingKey,
    issuer: String,
    audience: String,
}

impl Secret {
    /// Reads the secret from a file, without trailing white space.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(file: &Path, issuer: &str, audience: &str) -> anyhow::Result<Arc<Self>> {
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        Ok(Arc::new(Self {
            key: EncodingKey::from_secret(bytes.trim_ascii_end()),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        }))
    }

    fn sign(&self, user: &str) -> anyhow::Result<String> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?
            .as_secs();
        let claims = json!({
            "iss": self.issuer, "aud": self.audience, "sub": user, "name": user, "roles": [],
            "iat": now, "nbf": now, "exp": now + LIFETIME.as_secs(),
        });
        Ok(jsonwebtoken::encode(
            &Header::default(),
            &claims,
            &self.key,
        )?)
    }
}

struct Signed {
    secret: Arc<Secret>,
    user: String,
}

impl TokenSource for Signed {
    fn token(
        &self,
        _fresh: bool,
    ) -> Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send + '_>> {
        let token = self.secret.sign(&self.user);
        let token = token.map_err(|error| TokenError::Unavailable(format!("{error:#}")));
        Box::pin(std::future::ready(token))
    }
}

impl Issuer {
    /// Tokens of one user.
    pub(crate) fn tokens_of(&self, user: &str) -> Arc<dyn TokenSource> {
        match self {
            Self::Dev(server) => server.tokens_of(user),
            Self::Secret(secret) => Arc::new(Signed {
                secret: Arc::clone(secret),
                user: user.to_owned(),
            }),
        }
    }
}
