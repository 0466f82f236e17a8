//! The development signing key and the tokens made with it.
//!
//! Real deployments get their tokens from an identity provider; natter only checks them. This key
//! exists so that a newcomer and a test can chat without one. The gateway reads the same file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

/// Issuer of development tokens.
pub(crate) const ISSUER: &str = "natter-dev";
/// Audience of development tokens.
pub(crate) const AUDIENCE: &str = "natter";
/// Name of the key's file in the data folder.
pub(crate) const KEY_FILE: &str = "dev-jwt.key";
/// A working day and a bit: a token pasted in the morning still works in the evening.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// HMAC-SHA-256 gains nothing from a longer key (RFC 7518, 3.2 asks for at least this).
const KEY_BYTES: usize = 32;

/// Arguments of `natter token`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// User id: the token's `sub`.
    user: String,
    /// Name to show.
    #[arg(long)]
    name: Option<String>,
    /// A role, may be given several times: guest, moderator, admin.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Seconds from now until the token expires.
    #[arg(long, value_name = "SECONDS", default_value_t = LIFETIME.as_secs())]
    lifetime_s: u64,
    /// Make one that expired a minute ago.
    #[arg(long, conflicts_with = "lifetime_s")]
    expired: bool,
    /// Data folder of `natter dev`, where the key is.
    #[arg(long, env = "NATTER_DATA", default_value = ".natter")]
    data: PathBuf,
    /// Key file, instead of the one in the data folder.
    #[arg(long, env = "NATTER_JWT_HS256_SECRET_FILE")]
    key_file: Option<PathBuf>,
}

/// Prints the token.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args
        .key_file
        .clone()
        .unwrap_or_else(|| args.data.join(KEY_FILE));
    let key = Key::read(&path)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let claims = if args.expired {
        Claims::expired(args, now)
    } else {
        Claims::new(args, now, Duration::from_secs(args.lifetime_s))
    };
    writeln!(std::io::stdout(), "{}", key.sign(&claims)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The claims natter asks for.
#[derive(Debug, Serialize)]
pub(crate) struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    roles: Vec<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl Claims {
    /// Valid from `now` (since 1970) for `lifetime`.
    fn new(args: &Args, now: Duration, lifetime: Duration) -> Self {
        Self {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: args.user.clone(),
            name: args.name.clone(),
            roles: args.roles.clone(),
            iat: now.as_secs(),
            nbf: now.as_secs(),
            exp: now.saturating_add(lifetime).as_secs(),
        }
    }

    /// Was valid for an hour until a minute before `now`.
    fn expired(args: &Args, now: Duration) -> Self {
        let lifetime = Duration::from_secs(3600);
        let gone = Duration::from_secs(60);
        Self::new(args, now.saturating_sub(lifetime + gone), lifetime)
    }

    /// A plain user, for the banner.
    pub(crate) fn of_user(user: &str, name: &str) -> anyhow::Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        Ok(Self {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: user.to_owned(),
            name: Some(name.to_owned()),
            roles: Vec::new(),
            iat: now.as_secs(),
            nbf: now.as_secs(),
            exp: now.saturating_add(LIFETIME).as_secs(),
        })
    }
}

/// The secret that development tokens are signed with.
pub(crate) struct Key(jsonwebtoken::EncodingKey);

impl Key {
    /// Reads the key, or makes one that only this user can read.
    pub(crate) fn read_or_make(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_BYTES]>());
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("make the key file {}", path.display()))?;
            writeln!(file, "{secret}")?;
        }
        Self::read(path)
    }

    /// Reads the key: the file's bytes without trailing white space.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "read the key file {} (`natter dev` makes it)",
                path.display()
            )
        })?;
        let secret = bytes.trim_ascii_end();
        anyhow::ensure!(
            secret.len() >= KEY_BYTES,
            "the key file {} holds fewer than {KEY_BYTES} bytes",
            path.display()
        );
        Ok(Self(jsonwebtoken::EncodingKey::from_secret(secret)))
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Claims) -> anyhow::Result<String> {
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        jsonwebtoken::encode(&header, claims, &self.0).context("sign the token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(user: &str) -> Args {
        Args {
            user: user.to_owned(),
            name: None,
            roles: Vec::new(),
            lifetime_s: 60,
            expired: false,
            data: PathBuf::new(),
            key_file: None,
        }
    }

    #[test]
    fn an_expired_token_was_valid_once_and_is_no_more() {
        let now = Duration::from_secs(1_000_000);
        let claims = Claims::expired(&args("alice"), now);
        assert!(claims.nbf < claims.exp);
        assert!(claims.exp < now.as_secs());
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_then_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("natter-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(KEY_FILE);
        let claims = Claims::new(&args("alice"), Duration::from_secs(5), LIFETIME);
        let first = Key::read_or_make(&path).unwrap().sign(&claims).unwrap();
        let second = Key::read_or_make(&path).unwrap().sign(&claims).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(first, second);
        assert_eq!(mode, 0o600);
    }
}
