//! Tokens: who says hello, checked against the configured keys.
//!
//! One key per algorithm, and a key accepts only its own, so a public key can never be used as an
//! HMAC secret. Signatures and claims are checked by the library; nothing here parses a token.
//! What a user may do is not decided here.

use crate::config::AuthArgs;
use chassis::config::Problems;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use protocol::{ErrorCode, Refusal, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Clocks of issuers and ours may differ by this much.
const LEEWAY_SECONDS: u64 = 5;
/// An HMAC key shorter than the hash is weaker than the hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Lifetime of a token made by the development endpoint.
const DEV_LIFETIME_MS: i64 = 12 * 3600 * 1000;

/// Who a valid token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// Whether the token has the role `guest`.
    pub guest: bool,
    /// When the token ends.
    pub expires: Timestamp,
}

/// What the development endpoint is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevTokenRequest {
    /// The token's `sub`.
    pub user: String,
    /// Name to show.
    #[serde(default)]
    pub name: Option<String>,
    /// Roles: `guest`, `moderator`, `admin`.
    #[serde(default)]
    pub roles: Vec<String>,
}

struct Key {
    decoding: DecodingKey,
    validation: Validation,
}

impl Key {
    /// The claims of a token, if everything about it is right.
    fn claims(&self, token: &str) -> Result<Claims, ErrorCode> {
        let error = match self.decode(token, &self.validation) {
            Ok(claims) => return Ok(claims),
            Err(error) => error,
        };
        if !matches!(error.kind(), ErrorKind::ExpiredSignature) {
            return Err(ErrorCode::Unauthorized);
        }
        // The library looks at the end of a token before it looks at whom it is for.
        let mut timeless = self.validation.clone();
        timeless.validate_exp = false;
        match self.decode(token, &timeless) {
            Ok(_) => Err(ErrorCode::TokenExpired),
            Err(_) => Err(ErrorCode::Unauthorized),
        }
    }

    fn decode(&self, token: &str, validation: &Validation) -> Result<Claims, Error> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, validation)?.claims;
        if claims.sub.is_empty() {
            return Err(ErrorKind::InvalidSubject.into());
        }
        Ok(claims)
    }
}

/// The keys and what a token must claim.
pub struct Auth {
    hs256: Option<Key>,
    eddsa: Option<Key>,
    signing: Option<EncodingKey>,
    issuer: String,
    audience: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: u64,
    #[serde(default)]
    roles: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct DevClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    roles: &'a [String],
    iat: i64,
    nbf: i64,
    exp: i64,
}

impl Auth {
    /// Reads the keys; adds every mistake.
    pub fn load(args: &AuthArgs, problems: &mut Problems) -> Option<Self> {
        let secret = args.hs256_secret_file.as_deref().and_then(|path| {
            let bytes = read(path, "NATTER_JWT_HS256_SECRET_FILE", problems)?;
            let secret = bytes.trim_ascii_end().to_vec();
            let long = secret.len() >= SECRET_BYTES_MIN;
            problems.require(
                long,
                "NATTER_JWT_HS256_SECRET_FILE",
                "holds fewer than 32 bytes",
            );
            long.then_some(secret)
        });
        let public = args.eddsa_public_key_file.as_deref().and_then(|path| {
            let pem = read(path, "NATTER_JWT_EDDSA_PUBLIC_KEY_FILE", problems)?;
            let key = DecodingKey::from_ed_pem(&pem);
            if let Err(error) = &key {
                problems.add("NATTER_JWT_EDDSA_PUBLIC_KEY_FILE", error);
            }
            key.ok()
        });
        let named = args.hs256_secret_file.is_some() || args.eddsa_public_key_file.is_some();
        problems.require(
            named,
            "NATTER_JWT_HS256_SECRET_FILE",
            "missing; this or NATTER_JWT_EDDSA_PUBLIC_KEY_FILE is needed to check tokens",
        );
        problems.require(
            !args.dev_tokens || args.hs256_secret_file.is_some(),
            "NATTER_DEV_TOKENS",
            "needs NATTER_JWT_HS256_SECRET_FILE to sign with",
        );
        let key = |decoding, algorithm| Key {
            decoding,
            validation: validation(args, algorithm),
        };
        Some(Self {
            hs256: secret
                .as_ref()
                .map(|secret| key(DecodingKey::from_secret(secret), Algorithm::HS256)),
            eddsa: public.map(|public| key(public, Algorithm::EdDSA)),
            signing: secret
                .filter(|_| args.dev_tokens)
                .map(|s| EncodingKey::from_secret(&s)),
            issuer: args.issuer.clone(),
            audience: args.audience.clone(),
        })
        .filter(|auth| auth.hs256.is_some() || auth.eddsa.is_some())
    }

    /// Whose valid token this is.
    ///
    /// # Errors
    /// `token_expired` if that is all that is wrong with it, else `unauthorized`.
    pub fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let refused = |_| Refusal::plain(ErrorCode::Unauthorized);
        let header = jsonwebtoken::decode_header(token).map_err(refused)?;
        let key = match header.alg {
            Algorithm::HS256 => self.hs256.as_ref(),
            Algorithm::EdDSA => self.eddsa.as_ref(),
            _ => None,
        };
        let key = key.ok_or_else(|| Refusal::plain(ErrorCode::Unauthorized))?;
        let claims = key.claims(token).map_err(Refusal::plain)?;
        let expires = i64::try_from(claims.exp.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Ok(Identity {
            user: UserId::from_claims(&claims.iss, &claims.sub, claims.iss == self.issuer),
            guest: claims
                .roles
                .iter()
                .any(|role| role.as_str() == Some("guest")),
            expires: Timestamp(expires),
        })
    }

    /// Makes a token for development; `None` if that is not switched on.
    ///
    /// # Errors
    /// `bad_request` for an empty user.
    pub fn dev_token(
        &self,
        ask: &DevTokenRequest,
        now: Timestamp,
    ) -> Option<Result<String, Refusal>> {
        let signing = self.signing.as_ref()?;
        if ask.user.is_empty() || ask.user.len() > 256 {
            return Some(Err(Refusal::new(
                ErrorCode::BadRequest,
                "`user` has 1 to 256 bytes",
            )));
        }
        let claims = DevClaims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: &ask.user,
            name: ask.name.as_deref(),
            roles: &ask.roles,
            iat: now.0 / 1_000,
            nbf: now.0 / 1_000,
            exp: now.plus_ms(DEV_LIFETIME_MS).0 / 1_000,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, signing);
        Some(token.map_err(|error| {
            tracing::error!(%error, "signing a development token failed");
            Refusal::plain(ErrorCode::Internal)
        }))
    }
}

fn read(path: &Path, name: &str, problems: &mut Problems) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            problems.add(
                name,
                format_args!("reading {} failed: {error}", path.display()),
            );
            None
        }
    }
}

fn validation(args: &AuthArgs, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_audience(&[&args.audience]);
    validation.set_issuer(&[&args.issuer]);
    validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
    validation
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::io::Write as _;
    use std::path::PathBuf;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    /// An Ed25519 pair made for this test with `openssl genpkey -algorithm ed25519`.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHUWH1UaoyhmRdgodHdXl/0QZZ5OTMUH8xuaXkC2vGjM\n-----END PRIVATE KEY-----\n";

    fn file(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("natter-auth-{}-{name}", std::process::id()));
        std::fs::File::create(&path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
        path
    }

    fn args(hs256: Option<PathBuf>, eddsa: Option<PathBuf>) -> AuthArgs {
        AuthArgs {
            hs256_secret_file: hs256,
            eddsa_public_key_file: eddsa,
            issuer: "natter-dev".to_owned(),
            audience: "natter".to_owned(),
            dev_tokens: false,
        }
    }

    fn auth() -> Auth {
        let mut problems = Problems::new();
        let path = file(
            &format!("{:?}", std::thread::current().id()),
            &[SECRET, b"\n"].concat(),
        );
        let auth = Auth::load(
            &AuthArgs {
                dev_tokens: true,
                ..args(Some(path.clone()), None)
            },
            &mut problems,
        );
        std::fs::remove_file(path).unwrap();
        problems.finish().unwrap();
        auth.unwrap()
    }

    fn now() -> i64 {
        i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap()
    }

    fn claims() -> Value {
        json!({"iss":"natter-dev","aud":"natter","sub":"alice","exp":now()+60,"nbf":now(),"roles":["guest",7]})
    }

    fn sign(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
        jsonwebtoken::encode(
            &Header::new(algorithm),
            claims,
            &EncodingKey::from_secret(secret),
        )
        .unwrap()
    }

    fn with(field: &str, value: Value) -> String {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(field);
        } else {
            claims[field] = value;
        }
        sign(Algorithm::HS256, SECRET, &claims)
    }

    #[test]
    fn a_valid_token_tells_who_it_is() {
        let identity = auth()
            .verify(&sign(Algorithm::HS256, SECRET, &claims()))
            .unwrap();
        assert_eq!((identity.user.as_str(), identity.guest), ("alice", true));
        assert!(identity.expires.0 > now() * 1_000);
    }

    #[test]
    fn every_defect_is_refused_with_its_code() {
        let auth = auth();
        let code = |token: &str| auth.verify(token).unwrap_err().code;
        let (expired, unauthorized) = (ErrorCode::TokenExpired, ErrorCode::Unauthorized);
        assert_eq!(code(&with("exp", json!(now() - 60))), expired);
        let (mut others, mut nobodys) = (claims(), claims());
        (others["exp"], others["aud"]) = (json!(now() - 60), json!("other"));
        (nobodys["exp"], nobodys["sub"]) = (json!(now() - 60), json!(""));
        for token in [
            sign(Algorithm::HS256, SECRET, &others),
            sign(Algorithm::HS256, SECRET, &nobodys),
            with("aud", json!("other")),
            with("iss", json!("other")),
            with("nbf", json!(now() + 600)),
            with("sub", json!("")),
            with("sub", json!(5)),
            with("exp", Value::Null),
            with("nbf", Value::Null),
            with("aud", Value::Null),
            with("iss", Value::Null),
            with("sub", Value::Null),
            sign(
                Algorithm::HS256,
                b"another key, also of 32 bytes !!",
                &claims(),
            ),
            sign(Algorithm::HS512, SECRET, &claims()),
            "eyJhbGciOiJub25lIn0.e30.".to_owned(),
            "x".to_owned(),
            String::new(),
        ] {
            assert_eq!(code(&token), unauthorized, "{token}");
        }
    }

    #[test]
    fn a_key_accepts_only_its_own_algorithm() {
        let private = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap();
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(), &private).unwrap();
        assert_eq!(
            auth().verify(&token).unwrap_err().code,
            ErrorCode::Unauthorized
        );
    }

    #[test]
    fn mistakes_in_the_key_settings_are_named() {
        let mut problems = Problems::new();
        let short = file("short", b"short");
        assert!(
            Auth::load(
                &args(Some(short.clone()), Some(short.clone())),
                &mut problems
            )
            .is_none()
        );
        assert!(Auth::load(&args(None, None), &mut problems).is_none());
        let dev = AuthArgs {
            dev_tokens: true,
            ..args(None, Some("/nowhere".into()))
        };
        assert!(Auth::load(&dev, &mut problems).is_none());
        std::fs::remove_file(short).unwrap();
        let shown = problems.to_string();
        for part in [
            "fewer than 32",
            "EDDSA_PUBLIC_KEY_FILE: ",
            "missing; this",
            "DEV_TOKENS: needs",
            "/nowhere",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }

    #[test]
    fn a_development_token_is_valid_here() {
        let auth = auth();
        let ask = DevTokenRequest {
            user: "bob".to_owned(),
            name: None,
            roles: Vec::new(),
        };
        let token = auth
            .dev_token(&ask, Timestamp(now() * 1_000))
            .unwrap()
            .unwrap();
        assert_eq!(auth.verify(&token).unwrap().user.as_str(), "bob");
    }
}
